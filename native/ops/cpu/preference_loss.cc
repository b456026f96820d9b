// Losses of pairs whose tokens' log-probabilities are there.
#include <algorithm>

#include "ops/cpu/backend.h"
#include "ops/pair_loss.h"

namespace rlhi::ops {

void preference_loss(Backend*, const PreferenceLossArgs& a) {
  check_preference_loss(a);
  for (int64_t i = 0; i < a.n; ++i) {
    const PairRows& rows = a.pairs[i];
    const float *chosen = a.logps + rows.first, *rejected = chosen + rows.chosen, *end = rejected + rows.rejected;
    PairSums sums;
    std::for_each(chosen, rejected, [&](float logp) { sums.chosen += static_cast<double>(logp); });
    std::for_each(rejected, end, [&](float logp) { sums.rejected += static_cast<double>(logp); });
    a.sums[i] = sums;
    if (!a.dlogps) continue;
    const PairLoss loss = pair_loss(rows, sums, a.loss);
    float* const d = a.dlogps + rows.first;
    std::fill(d, d + rows.chosen, static_cast<float>(a.weight * loss.d_chosen));
    std::fill(d + rows.chosen, d + rows.chosen + rows.rejected, static_cast<float>(a.weight * loss.d_rejected));
  }
}

}  // namespace rlhi::ops
