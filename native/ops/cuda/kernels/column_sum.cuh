// The second stage of sums over rows: to[j] += sum over chunks of partial[chunk, j], in an order that depends on the number
// of chunks alone. A block takes 32 columns; eight warps sum an eighth of the chunks each, and one adds the eighths.
#pragma once
#include "ops/cuda/kernels/device.cuh"

namespace rlhi::ops::cuda {

constexpr int kColumnThreads = 256;

RLHI_KERNEL(kColumnThreads, 4)
void add_partials_kernel(float* to, const float* partial, int64_t chunks, int64_t cols) {
  auto* sums = reinterpret_cast<float*>(shared_memory());  // [8][32]
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t column = static_cast<int64_t>(block_index()) * 32 + lane, share = (chunks + 7) / 8;
  const int64_t begin = warp * share, end = begin + share < chunks ? begin + share : chunks;
  float sum = 0;
  if (column < cols) {
RLHI_UNROLL_BY(8)
    for (int64_t c = begin; c < end; ++c) sum += partial[c * cols + column];
  }
  sums[warp * 32 + lane] = sum;
  sync_threads();
  if (warp == 0 && column < cols) {
    for (int w = 1; w < 8; ++w) sum += sums[w * 32 + lane];
    to[column] += sum;
  }
}

inline void add_partials(const Launch& at, float* to, const float* partial, int64_t chunks, int64_t cols) {
  launch(at, ceil_div(cols, 32), kColumnThreads, kColumnThreads * sizeof(float), add_partials_kernel, to, partial, chunks, cols);
}

}  // namespace rlhi::ops::cuda
