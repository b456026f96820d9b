// The objectives' arithmetic, for the host and a GPU's kernels alike. preference.h says what goes in and comes out.
#pragma once
#include <cmath>

#include "base/host_device.h"
#include "loss/preference.h"

namespace rlhi::preference {

// log(1 / (1 + e^-x)) and 1 / (1 + e^-x), neither of which overflows or cancels for any finite x.
RLHI_HOST_DEVICE inline double log_sigmoid(double x) { return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x)); }
RLHI_HOST_DEVICE inline double sigmoid(double x) {
  if (x >= 0) return 1 / (1 + exp(-x));
  const double e = exp(x);
  return e / (1 + e);
}

// The difference every objective is a function of, and its derivatives by the two summed policy log-probabilities.
struct Margin {
  double value, d_chosen, d_rejected;
};

// log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)
RLHI_HOST_DEVICE inline Margin log_ratio_margin(const PairLogps& p) {
  return {(p.policy_chosen - p.ref_chosen) - (p.policy_rejected - p.ref_rejected), 1, -1};
}
// The same of each answer's average over its tokens.
RLHI_HOST_DEVICE inline Margin average_log_ratio_margin(const PairLogps& p) {
  return {(p.policy_chosen - p.ref_chosen) / p.chosen_length - (p.policy_rejected - p.ref_rejected) / p.rejected_length, 1 / p.chosen_length,
          -1 / p.rejected_length};
}
// Average log-probabilities without a reference.
RLHI_HOST_DEVICE inline Margin average_logp_margin(const PairLogps& p) {
  return {p.policy_chosen / p.chosen_length - p.policy_rejected / p.rejected_length, 1 / p.chosen_length, -1 / p.rejected_length};
}

RLHI_HOST_DEVICE inline void set(PairLoss& out, double loss, double d_margin, const Margin& m) {
  out.loss = loss;
  out.d_chosen = d_margin * m.d_chosen;
  out.d_rejected = d_margin * m.d_rejected;
}

// L = -(1-s) log sigmoid(beta d) - s log sigmoid(-beta d)     DPO: Rafailov et al. 2023, arXiv 2305.18290, eq. 7;
//                                                            s = label smoothing: conservative DPO, Mitchell 2023.
RLHI_HOST_DEVICE inline void sigmoid_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = log_ratio_margin(p);
  const double z = o.beta * m.value, s = o.label_smoothing;
  set(out, -(1 - s) * log_sigmoid(z) - s * log_sigmoid(-z), o.beta * (-(1 - s) * sigmoid(-z) + s * sigmoid(z)), m);
}

// L = (d - 1/(2 beta))^2, d of per-token averages as TRL has it     IPO: Azar et al. 2023, arXiv 2310.12036, eq. 17.
RLHI_HOST_DEVICE inline void ipo_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = average_log_ratio_margin(p);
  const double e = m.value - 1 / (2 * o.beta);
  set(out, e * e, 2 * e, m);
}

// L = max(0, 1 - beta d)     SLiC's hinge on the DPO margin: Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657.
RLHI_HOST_DEVICE inline void hinge_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = log_ratio_margin(p);
  const double slack = 1 - o.beta * m.value;
  set(out, slack > 0 ? slack : 0, slack > 0 ? -o.beta : 0, m);
}

// L = -log sigmoid(beta (log pi(chosen)/|chosen| - log pi(rejected)/|rejected|) - gamma)     SimPO: Meng et al. 2024, arXiv 2405.14734.
RLHI_HOST_DEVICE inline void simpo_loss(const PairLogps& p, const LossOptions& o, PairLoss& out) {
  const Margin m = average_logp_margin(p);
  const double z = o.beta * m.value - o.simpo_gamma;
  set(out, -log_sigmoid(z), -o.beta * sigmoid(-z), m);
}

// L += weight * -log pi(chosen)/|chosen|     the SFT term of RPO: Pang et al. 2024, arXiv 2404.19733.
RLHI_HOST_DEVICE inline void add_sft_term(const PairLogps& p, double weight, PairLoss& out) {
  out.loss += weight * -p.policy_chosen / p.chosen_length;
  out.d_chosen += weight * -1 / p.chosen_length;
}

RLHI_HOST_DEVICE inline PairLoss loss_of(const PairLogps& p, const LossOptions& o) {
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

// A reference that was stored as float32 is compared at that resolution, so that a policy of the very same sum differs by
// nothing at all: half a unit in the last place of a sum of -1000 would move ln 2 by 2e-6.
RLHI_HOST_DEVICE inline double at_resolution_of(double reference, double sum) {
  const bool stored_as_float = reference != 0 && static_cast<double>(static_cast<float>(reference)) == reference;
  return stored_as_float ? static_cast<double>(static_cast<float>(sum)) : sum;
}

}  // namespace rlhi::preference
