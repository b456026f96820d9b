// A pair's loss from its sums, and the factor of a clipped gradient: one source for every backend.
#pragma once
#include "loss/preference_formulas.h"
#include "ops/ops.h"

namespace rlhi::ops {

RLHI_HOST_DEVICE inline PairLogps logps_of(const PairRows& rows, const PairSums& sums) {
  PairLogps p;
  p.ref_chosen = rows.ref_chosen, p.ref_rejected = rows.ref_rejected;
  p.policy_chosen = preference::at_resolution_of(rows.ref_chosen, sums.chosen);
  p.policy_rejected = preference::at_resolution_of(rows.ref_rejected, sums.rejected);
  p.chosen_length = rows.chosen, p.rejected_length = rows.rejected;
  return p;
}

// Differences of a number that is not finite are not numbers.
RLHI_HOST_DEVICE inline PairLoss pair_loss(const PairRows& rows, const PairSums& sums, const LossOptions& options) {
  PairLoss loss = preference::loss_of(logps_of(rows, sums), options);
  const double not_finite = loss.loss - loss.loss;
  loss.d_chosen += not_finite, loss.d_rejected += not_finite;
  return loss;
}

RLHI_HOST_DEVICE inline float clip_factor_of(double squares, double max_norm, float before) {
  const double not_finite = squares - squares;
  const double clipped = max_norm > 0 ? max_norm / (sqrt(squares) + 1e-6) : 1.0;
  return static_cast<float>((clipped < 1.0 ? clipped : 1.0) + not_finite) + (before - before);
}

}  // namespace rlhi::ops
