#include "loss/preference.h"

#include <cmath>

#include "base/error.h"

namespace rlhi {
namespace {

// log(1 / (1 + e^-x)) and 1 / (1 + e^-x), neither of which overflows or cancels for any finite x.
double log_sigmoid(double x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }
double sigmoid(double x) {
  if (x >= 0) return 1 / (1 + std::exp(-x));
  const double e = std::exp(x);
  return e / (1 + e);
}

// The difference every objective is a function of, and its derivatives by the two summed policy log-probabilities.
struct Margin {
  double value, d_chosen, d_rejected;
};

// log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)
Margin log_ratio_margin(const PairLogps& p) {
  return {(p.policy_chosen - p.ref_chosen) - (p.policy_rejected - p.ref_rejected), 1, -1};
}
// The same of each answer's average over its tokens.
Margin average_log_ratio_margin(const PairLogps& p) {
  return {(p.policy_chosen - p.ref_chosen) / p.chosen_length - (p.policy_rejected - p.ref_rejected) / p.rejected_length,
      1 / p.chosen_length,
          -1 / p.rejected_length};
}
// Average log-probabilities without a reference.
Margin average_logp_margin(const PairLogps& p) {
  return {p.policy_chosen / p.chosen_length - p.policy_rejected / p.rejected_length, 1 / p.chosen_length, -1 / p.rejected_length};
}

void set(PairLoss& out, double loss, double d_margin, const Margin& m) {
  out.loss = loss;
  out.d_chosen = d_margin * m.d_chosen;
  out.d_rejected = d_margin * m.d_rejected;
}

// L = -(1-s) log sigmoid(beta d) - s log sigmoid(-beta d)     DPO: Rafailov et al. 2023, arXiv 2305.18290, eq. 7;
//                                                            s = label smoothing: conservative DPO, Mitchell 2023.
void sigmoid_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = log_ratio_margin(p);
  const double z = o.beta * m.value, s = o.label_smoothing;
  set(out, -(1 - s) * log_sigmoid(z) - s * log_sigmoid(-z), o.beta * (-(1 - s) * sigmoid(-z) + s * sigmoid(z)), m);
}

// L = (d - 1/(2 beta))^2, d of per-token averages as TRL has it     IPO: Azar et al. 2023, arXiv 2310.12036, eq. 17.
void ipo_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = average_log_ratio_margin(p);
  const double e = m.value - 1 / (2 * o.beta);
  set(out, e * e, 2 * e, m);
}

// L = max(0, 1 - beta d)     SLiC's hinge on the DPO margin: Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657.
void hinge_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = log_ratio_margin(p);
  const double slack = 1 - o.beta * m.value;
  set(out, slack > 0 ? slack : 0, slack > 0 ? -o.beta : 0, m);
}

// L = -log sigmoid(beta (log pi(chosen)/|chosen| - log pi(rejected)/|rejected|) - gamma)     SimPO: Meng et al. 2024, arXiv 2405.14734.
void simpo_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = average_logp_margin(p);
  const double z = o.beta * m.value - o.simpo_gamma;
  set(out, -log_sigmoid(z), -o.beta * sigmoid(-z), m);
}

// L += weight * -log pi(chosen)/|chosen|     the SFT term of RPO: Pang et al. 2024, arXiv 2404.19733.
void add_sft_term(const PairLogps& p, double weight, PairLoss& out) {
  out.loss += weight * -p.policy_chosen / p.chosen_length;
  out.d_chosen += weight * -1 / p.chosen_length;
}

}  // namespace

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

PairLoss preference_loss(const PairLogps& p, const LossOptions& o) {
  PairLoss out;
  switch (o.type) {
    case LossType::sigmoid: sigmoid_loss(p, o, out); break;
    case LossType::ipo: ipo_loss(p, o, out); break;
    case LossType::hinge: hinge_loss(p, o, out); break;
    case LossType::simpo: simpo_loss(p, o, out); break;
    case LossType::sft: add_sft_term(p, 1, out); break;
  }
  if (o.rpo_alpha != 0) add_sft_term(p, o.rpo_alpha, out);
  if (o.type == LossType::simpo) {
    out.reward_chosen = o.beta * p.policy_chosen / p.chosen_length;
    out.reward_rejected = o.beta * p.policy_rejected / p.rejected_length;
  } else {
    out.reward_chosen = o.beta * (p.policy_chosen - p.ref_chosen);
    out.reward_rejected = o.beta * (p.policy_rejected - p.ref_rejected);
  }
  return out;
}

}  // namespace rlhi
