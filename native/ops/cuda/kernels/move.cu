// Movement of rows with conversion, and sums over rows.
#include "ops/cuda/kernels/column_sum.cuh"
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256, kInFlight = 4;  // groups a thread loads before it uses the first

// to[to_index[i]] (+)= from[from_index[i]]
template <int kGroup, bool kAdd>
RLHI_KERNEL(kThreads, 4)
void move_kernel(Rows to, const int32_t* to_index, Rows from, const int32_t* from_index, int64_t rows, int64_t per_row) {
  const int64_t n = rows * per_row, first = static_cast<int64_t>(block_index()) * (kThreads * kInFlight) + thread_index();
  Group<kGroup> read[kInFlight], before[kInFlight];
  void* target[kInFlight];
RLHI_UNROLL
  for (int u = 0; u < kInFlight; ++u) {
    const int64_t i = first + u * kThreads;
    if (i >= n) continue;
    const Place p = place_of(i, per_row);
    read[u] = load_group<kGroup>(from.at(from_index ? from_index[p.row] : p.row, p.group * kGroup), from.is_f32);
    target[u] = to.at(to_index ? to_index[p.row] : p.row, p.group * kGroup);
    if (kAdd) before[u] = load_group<kGroup>(target[u], to.is_f32);
  }
RLHI_UNROLL
  for (int u = 0; u < kInFlight; ++u) {
    if (first + u * kThreads >= n) continue;
    float x[kGroup], y[kGroup];
    to_floats(x, read[u], from.is_f32);
    if (kAdd) {
      to_floats(y, before[u], to.is_f32);
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) x[j] = y[j] + x[j];
    }
    store_floats(target[u], to.is_f32, x);
  }
}

template <bool kAdd>
void move(const Launch& at, Tensor to, const int32_t* to_index, Tensor from, const int32_t* from_index, int64_t rows) {
  if (rows <= 0 || to.cols <= 0) return;
  const int size = group_size({to, from}, to.cols);
  with_group_size(size, [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = to.cols / kGroup;
    launch(at, ceil_div(rows * per_row, kThreads * kInFlight), kThreads, 0, move_kernel<kGroup, kAdd>, Rows(to), to_index, Rows(from),
           from_index, rows, per_row);
  });
}

// One block a run and piece of columns: repeated rows are added by one thread, in order.
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void scatter_add_kernel(Rows to, Rows from, const ScatterRun* runs, const int32_t* order, int64_t per_row, int pieces) {
  const ScatterRun run = runs[block_index() / pieces];
  const int64_t group = static_cast<int64_t>(block_index() % pieces) * kThreads + thread_index();
  if (group >= per_row) return;
  float sum[kGroup];
  load_floats(sum, to.at(run.row, group * kGroup), true);
  for (int i = 0; i < run.count; i += kInFlight) {
    Group<kGroup> read[kInFlight];
RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u < run.count) read[u] = load_group<kGroup>(from.at(order[run.first + i + u], group * kGroup), from.is_f32);
    }
RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u >= run.count) continue;
      float x[kGroup];
      to_floats(x, read[u], from.is_f32);
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) sum[j] += x[j];
    }
  }
  store_floats(to.at(run.row, group * kGroup), true, sum);
}

constexpr int64_t kRowsPerPartial = 64;  // rows of a partial sum

template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void column_partials_kernel(float* partial, Rows from, int64_t rows, int64_t per_row, int pieces) {
  const int64_t chunk = block_index() / pieces, group = static_cast<int64_t>(block_index() % pieces) * kThreads + thread_index();
  if (group >= per_row) return;
  const int64_t begin = chunk * kRowsPerPartial, end = begin + kRowsPerPartial < rows ? begin + kRowsPerPartial : rows;
  float sum[kGroup] = {};
RLHI_UNROLL_BY(4)
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

}  // namespace

void move_rows(const Launch& at, Tensor to, const int32_t* to_index, Tensor from, const int32_t* from_index, int64_t rows) {
  move<false>(at, to, to_index, from, from_index, rows);
}

void add(const Launch& at, Tensor to, Tensor from) { move<true>(at, to, nullptr, from, nullptr, from.rows); }

void scatter_add_rows(const Launch& at, Tensor to, Tensor from, const ScatterRun* runs, int64_t n_runs, const int32_t* order) {
  if (n_runs <= 0 || to.cols <= 0) return;
  with_group_size(group_size({to, from}, to.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = to.cols / kGroup, pieces = ceil_div(per_row, kThreads);
    launch(at, n_runs * pieces, kThreads, 0, scatter_add_kernel<kGroup>, Rows(to), Rows(from), runs, order, per_row,
           static_cast<int>(pieces));
  });
}

size_t column_sum_scratch(int64_t rows, int64_t cols) { return static_cast<size_t>(ceil_div(rows, kRowsPerPartial) * cols) * sizeof(float); }

void column_sum(const Launch& at, Tensor to, Tensor from, void* scratch) {
  if (from.rows <= 0 || from.cols <= 0) return;
  const int64_t chunks = ceil_div(from.rows, kRowsPerPartial);
  with_group_size(group_size({from}, from.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = from.cols / kGroup, pieces = ceil_div(per_row, kThreads);
    launch(at, chunks * pieces, kThreads, 0, column_partials_kernel<kGroup>, static_cast<float*>(scratch), Rows(from), from.rows, per_row,
           static_cast<int>(pieces));
  });
  add_partials(at, static_cast<float*>(to.data), static_cast<const float*>(scratch), chunks, from.cols);
}

}  // namespace rlhi::ops::cuda
