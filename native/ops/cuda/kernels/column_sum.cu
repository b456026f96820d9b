// Sums over rows in two stages: partial sums of fixed runs of rows, then the sum of the partial sums.
#include "ops/cuda/kernels/column_sum.cuh"

#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRowsPerPartial = 64;  // rows of a partial sum

template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void column_partials_kernel(float* partial, Rows from, int64_t rows, int64_t per_row, Division pieces) {
  const Place place = place_of(block_index(), pieces);
  const int64_t chunk = place.row, group = place.group * kThreads + thread_index();
  if (group >= per_row) return;
  const int64_t begin = chunk * kRowsPerPartial, end = begin + kRowsPerPartial < rows ? begin + kRowsPerPartial : rows;
  float sum[kGroup] = {};
  RLHI_UNROLL_BY(8)
  for (int64_t i = begin; i < end; ++i) {
    float x[kGroup];
    load_floats(x, from.at(i, group * kGroup), from.is_f32);
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) sum[j] += x[j];
  }
  float* to = partial + (chunk * per_row + group) * kGroup;
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) to[j] = sum[j];
}

// A block takes 32 columns; eight warps sum an eighth of the chunks each, and one adds the eighths.
RLHI_KERNEL(kThreads, 4)
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

}  // namespace

void add_partials(const Launch& at, float* to, const float* partial, int64_t chunks, int64_t cols) {
  launch(at, ceil_div(cols, 32), kThreads, kThreads * sizeof(float), add_partials_kernel, to, partial, chunks, cols);
}

size_t column_sum_scratch(int64_t rows, int64_t cols) {
  return static_cast<size_t>(ceil_div(rows, kRowsPerPartial) * cols) * sizeof(float);
}

void column_sum(const Launch& at, Tensor to, Tensor from, void* scratch) {
  if (from.rows <= 0 || from.cols <= 0) return;
  const int64_t chunks = ceil_div(from.rows, kRowsPerPartial);
  with_group_size(group_size({from}, from.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = from.cols / kGroup, pieces = ceil_div(per_row, kThreads);
    launch(at, chunks * pieces, kThreads, 0, column_partials_kernel<kGroup>, static_cast<float*>(scratch), Rows(from), from.rows, per_row,
           Division(pieces));
  });
  add_partials(at, static_cast<float*>(to.data), static_cast<const float*>(scratch), chunks, from.cols);
}

}  // namespace rlhi::ops::cuda
