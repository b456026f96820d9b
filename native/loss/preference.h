// The preference objectives, as functions of summed log-probabilities. One formula, one comment, one source.
#pragma once
#include <string>

namespace rlhi {

enum class LossType { sigmoid, ipo, hinge, simpo, sft };  // sft: -logp(chosen)/length, the comparison "SFT on the chosen answers"
LossType loss_type_from_name(const std::string& name);  // throws invalid_argument listing the names

struct LossOptions {
  LossType type = LossType::sigmoid;
  double beta = 0.1;
  double label_smoothing = 0;   // sigmoid only, [0, 0.5)
  double simpo_gamma = 0.5;     // simpo only: target margin gamma (not gamma/beta)
  double rpo_alpha = 0;         // weight of the added -logp(chosen)/length
};

struct PairLogps {              // sums over the answer's tokens, and their count
  double policy_chosen = 0, policy_rejected = 0, ref_chosen = 0, ref_rejected = 0;
  double chosen_length = 0, rejected_length = 0;
};

struct PairLoss {
  double loss = 0;
  double d_chosen = 0, d_rejected = 0;          // d loss / d policy_chosen, d policy_rejected
  double reward_chosen = 0, reward_rejected = 0;  // beta * (policy - ref); simpo: beta * policy / length (no reference)
};

// Throws invalid_argument for a value outside the ranges above.
void check_loss_options(const LossOptions& options);
// For checked options and lengths of at least 1.
PairLoss preference_loss(const PairLogps& logps, const LossOptions& options);

}  // namespace rlhi
