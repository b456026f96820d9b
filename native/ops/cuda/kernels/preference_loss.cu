// Losses of pairs, a thread block each: a warp an answer. Log-probabilities are added in the order of their tokens, by one lane, so that sums
// are those of the host to the bit; the warp brings them.
#include "ops/cuda/kernels/device.cuh"
#include "ops/pair_loss.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 64;

struct SharedOfPair {
  float logps[2][32];
  double sums[2];
  float d[2];
};

RLHI_DEVICE double answer_sum(const float* logps, int n, float* brought) {
  const int lane = thread_index() % 32;
  double sum = 0;
  for (int first = 0; first < n; first += 32) {
    if (first + lane < n) brought[lane] = logps[first + lane];
    sync_warp();
    if (lane == 0) {
      for (int i = 0; i < least(32, n - first); ++i) sum += static_cast<double>(brought[i]);
    }
    sync_warp();
  }
  return sum;
}

RLHI_KERNEL(kThreads, 8)
void loss_kernel(PreferenceLossArgs a) {
  auto& shared = *reinterpret_cast<SharedOfPair*>(shared_memory());
  const PairRows rows = a.pairs[block_index()];
  const int answer = thread_index() / 32;
  const int64_t begin = rows.first + (answer == 0 ? 0 : rows.chosen);
  const int n = answer == 0 ? rows.chosen : rows.rejected;
  const double sum = answer_sum(a.logps + begin, n, shared.logps[answer]);
  if (thread_index() % 32 == 0) shared.sums[answer] = sum;
  sync_threads();
  if (thread_index() == 0) {
    const PairSums sums{shared.sums[0], shared.sums[1]};
    a.sums[block_index()] = sums;
    const PairLoss loss = pair_loss(rows, sums, a.loss);
    shared.d[0] = static_cast<float>(a.weight * loss.d_chosen), shared.d[1] = static_cast<float>(a.weight * loss.d_rejected);
  }
  sync_threads();
  if (!a.dlogps) return;
  for (int i = thread_index() % 32; i < n; i += 32) a.dlogps[begin + i] = shared.d[answer];
}

}  // namespace

void preference_loss(const Launch& at, const PreferenceLossArgs& a) { launch(at, a.n, kThreads, sizeof(SharedOfPair), loss_kernel, a); }

}  // namespace rlhi::ops::cuda
