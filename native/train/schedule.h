// The learning rate of each step.
#pragma once
#include <cstdint>
#include <string>

namespace rlhi {

enum class ScheduleType { constant_with_warmup, linear, cosine };
// transformers' names, and "constant" (constant_with_warmup, whose warm-up the caller sets to 0). Throws invalid_argument.
ScheduleType schedule_from_name(const std::string& name);

// The factor of the peak learning rate at optimizer step `step` (0-based).
//   warm-up, step < W:  (step + 1) / W   one step ahead of transformers' step / W, so that no step is spent at rate 0
//   afterwards, with progress = (step - W) / (total - W):  1;  1 - progress;  (1 + cos(pi * progress)) / 2
// From step W on this is transformers' get_{constant_with_warmup, linear, cosine}_schedule(_with_warmup) at the same step.
double schedule_factor(ScheduleType type, int64_t step, int64_t warmup_steps, int64_t total_steps);

}  // namespace rlhi
