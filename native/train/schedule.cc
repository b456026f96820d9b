#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace rlhi {

ScheduleType schedule_from_name(const std::string& name) {
  if (name == "constant" || name == "constant_with_warmup") return ScheduleType::constant_with_warmup;
  if (name == "linear") return ScheduleType::linear;
  if (name == "cosine") return ScheduleType::cosine;
  fail(ErrorCode::invalid_argument, "expected a learning rate schedule of constant, constant_with_warmup, linear or cosine, found '", name,
       "'");
}

double schedule_factor(ScheduleType type, int64_t step, int64_t warmup_steps, int64_t total_steps) {
  if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (type == ScheduleType::constant_with_warmup) return 1;
  const double decaying = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / decaying);
  return type == ScheduleType::linear ? 1 - progress : 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace rlhi
