// The head's softmax: statistics of rows of logits over fixed blocks of the vocabulary, and the gradient of the chosen
// log-probability. Each reads its logits once.
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPerLane = static_cast<int>(kVocabBlock) / 32;

// Exponentials are powers of two, and a maximum is rounded up to an integer: bringing sums to one maximum multiplies them by
// powers of two, which rounds nothing, so only the order of the additions matters.
struct BlockStatistics {
  float maximum, sum;  // sum of 2^(logit log2(e) - maximum)
};

// One warp: maximum and sum of up to kVocabBlock logits, which wait in registers between the two.
template <int kGroup>
RLHI_DEVICE BlockStatistics block_statistics(const float* logits, int count) {
  constexpr int kHeld = kPerLane / kGroup;
  const int lane = thread_index() % 32;
  float x[kHeld][kGroup];
  float maximum = negative_infinity();
  RLHI_UNROLL
  for (int u = 0; u < kHeld; ++u) {
    const int at = (u * 32 + lane) * kGroup;
    if (at < count) {
      load_floats(x[u], logits + at, true);
    } else {
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) x[u][j] = negative_infinity();
    }
  }
  RLHI_UNROLL
  for (int u = 0; u < kHeld; ++u) {
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) maximum = fmaxf(maximum, x[u][j]);
  }
  maximum = ceilf(lanes_max(maximum) * kLog2e);
  float sum = 0;
  RLHI_UNROLL
  for (int u = 0; u < kHeld; ++u) {
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) sum += exp2_fast(fused_multiply_add(x[u][j], kLog2e, -maximum));
  }
  return {maximum, lanes_sum(sum)};
}

// One block a row. Warps take the vocabulary's blocks in turn; their sums are brought to one maximum by all of a warp's lanes
// and added in order, in double, by one.
template <int kGroup>
RLHI_KERNEL(kThreads, 2)
void statistics_kernel(Rows logits, int64_t cols, int64_t first, const int32_t* targets, HeadStatistics* statistics) {
  const int n_blocks = static_cast<int>((cols + kVocabBlock - 1) / kVocabBlock);
  auto* scaled = reinterpret_cast<double*>(shared_memory());
  auto* blocks = reinterpret_cast<BlockStatistics*>(scaled + n_blocks);
  const int64_t row = block_index();
  const int lane = thread_index() % 32;
  const auto* x = static_cast<const float*>(logits.at(row, 0));
  for (int b = thread_index() / 32; b < n_blocks; b += kWarps) {
    const int64_t begin = b * kVocabBlock;
    const int count = static_cast<int>(cols - begin < kVocabBlock ? cols - begin : kVocabBlock);
    const BlockStatistics s = block_statistics<kGroup>(x + begin, count);
    if (lane == 0) blocks[b] = s;
  }
  sync_threads();
  if (thread_index() >= 32) return;
  HeadStatistics s{static_cast<double>(negative_infinity()), 0.0, 0.0};
  if (first > 0) s = statistics[row];
  float maximum = static_cast<float>(s.maximum);
  for (int b = lane; b < n_blocks; b += 32) maximum = fmaxf(maximum, blocks[b].maximum);
  maximum = lanes_max(maximum);
  for (int b = lane; b < n_blocks; b += 32) {
    scaled[b] = ldexp(static_cast<double>(blocks[b].sum), static_cast<int>(blocks[b].maximum - maximum));
  }
  sync_warp();
  if (lane != 0) return;
  if (first > 0) s.sum = ldexp(s.sum, static_cast<int>(static_cast<float>(s.maximum) - maximum));
  for (int b = 0; b < n_blocks; ++b) s.sum += scaled[b];
  s.maximum = static_cast<double>(maximum);
  const int64_t target = targets[row] - first;
  if (target >= 0 && target < cols) s.target = static_cast<double>(x[target]);
  statistics[row] = s;
}

RLHI_KERNEL(kThreads, 4)
void finish_kernel(const HeadStatistics* statistics, int64_t n, float* logps, float* lse) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const HeadStatistics s = statistics[i];
  const double row_lse = s.maximum * 0.69314718055994530942 + log(s.sum);  // maximum ln(2)
  lse[i] = static_cast<float>(row_lse);
  logps[i] = static_cast<float>(s.target - row_lse);
}

// One block a row, from its start to its end: a bf16 result over the logits' own memory never overtakes what is still to be
// read, because a step's logits are all read before its results are written.
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void gradient_kernel(Rows d, Rows logits, int64_t cols, int64_t first, const int32_t* targets, const float* lse, const float* dlogps) {
  constexpr int kInFlight = 4;
  const int64_t row = block_index(), target = targets[row] - first;
  const float lse_log2 = lse[row] * kLog2e, factor = dlogps[row];
  for (int64_t step = 0; step < cols; step += kThreads * kInFlight * kGroup) {
    float x[kInFlight][kGroup];
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t at = step + (u * kThreads + thread_index()) * kGroup;
      if (at < cols) load_floats(x[u], logits.at(row, at), true);
    }
    sync_threads();
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t at = step + (u * kThreads + thread_index()) * kGroup;
      if (at >= cols) continue;
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) {
        x[u][j] = exp2_fast(fused_multiply_add(x[u][j], kLog2e, -lse_log2)) * -factor;
        if (at + j == target) x[u][j] += factor;
      }
      store_floats(d.at(row, at), d.is_f32, x[u]);
    }
  }
}

}  // namespace

void logprob_statistics(const Launch& at, Tensor logits, int64_t first, const int32_t* targets, HeadStatistics* statistics) {
  if (logits.rows == 0) return;
  const auto shared = static_cast<size_t>(ceil_div(logits.cols, kVocabBlock)) * (sizeof(double) + sizeof(BlockStatistics));
  with_group_size(group_size({logits}, logits.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value == 8 ? 4 : decltype(group)::value;  // logits are f32
    launch(at, logits.rows, kThreads, shared, statistics_kernel<kGroup>, Rows(logits), logits.cols, first, targets, statistics);
  });
}

void logprob_finish(const Launch& at, const HeadStatistics* statistics, int64_t n, float* logps, float* lse) {
  launch(at, ceil_div(n, kThreads), kThreads, 0, finish_kernel, statistics, n, logps, lse);
}

void logprob_gradient(const Launch& at, Tensor d, Tensor logits, int64_t first, const int32_t* targets, const float* lse,
                      const float* dlogps) {
  if (logits.rows == 0) return;
  with_group_size(group_size({logits, d}, logits.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value == 8 ? 4 : decltype(group)::value;
    launch(at, logits.rows, kThreads, 0, gradient_kernel<kGroup>, Rows(d), Rows(logits), logits.cols, first, targets, lse, dlogps);
  });
}

}  // namespace rlhi::ops::cuda
