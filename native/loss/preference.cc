#include "loss/preference.h"

#include <cmath>

#include "base/error.h"
#include "loss/preference_formulas.h"

namespace rlhi {
LossType loss_type_from_name(const std::string& name) {
  if (name == "sigmoid") return LossType::sigmoid;
  if (name == "ipo") return LossType::ipo;
  if (name == "hinge") return LossType::hinge;
  if (name == "simpo") return LossType::simpo;
  if (name == "sft") return LossType::sft;
  fail(ErrorCode::invalid_argument, "expected a loss type of sigmoid, ipo, hinge, simpo or sft, found '", name, "'");
}

void check_loss_options(const LossOptions& o) {
  const auto finite = [](double x) { return std::isfinite(x); };
  check(finite(o.beta) && o.beta > 0, ErrorCode::invalid_argument, "expected beta above 0, found ", o.beta);
  check(o.label_smoothing >= 0 && o.label_smoothing < 0.5, ErrorCode::invalid_argument, "expected label smoothing in [0, 0.5), found ",
        o.label_smoothing);
  check(o.label_smoothing == 0 || o.type == LossType::sigmoid, ErrorCode::invalid_argument,
        "label smoothing belongs to the sigmoid loss; expected 0, found ", o.label_smoothing);
  check(finite(o.simpo_gamma), ErrorCode::invalid_argument, "expected a finite simpo gamma, found ", o.simpo_gamma);
  check(finite(o.rpo_alpha) && o.rpo_alpha >= 0, ErrorCode::invalid_argument, "expected rpo alpha of 0 or more, found ", o.rpo_alpha);
}

PairLoss preference_loss(const PairLogps& p, const LossOptions& o) { return preference::loss_of(p, o); }

}  // namespace rlhi
