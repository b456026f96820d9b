// Movement of rows with conversion, and sums into rows.
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256, kInFlight = 4;  // groups a thread loads before it uses the first

// to[to_index[i]] (+)= from[from_index[i]]
template <int kGroup, bool kAdd>
RLHI_KERNEL(kThreads, 4)
void move_kernel(Rows to, const int32_t* to_index, Rows from, const int32_t* from_index, int64_t rows, Division per_row) {
  const int64_t n = rows * per_row.by, first = static_cast<int64_t>(block_index()) * (kThreads * kInFlight) + thread_index();
  // All indices, those of the last group again beyond the end, then all groups are on their way before the first is waited for.
  Group<kGroup> read[kInFlight], before[kInFlight];
  void *source[kInFlight], *target[kInFlight];
  RLHI_UNROLL
  for (int u = 0; u < kInFlight; ++u) {
    const int64_t i = first + u * kThreads;
    const Place p = place_of(i < n ? i : n - 1, per_row);
    source[u] = from.at(from_index ? from_index[p.row] : p.row, p.group * kGroup);
    target[u] = to.at(to_index ? to_index[p.row] : p.row, p.group * kGroup);
  }
  RLHI_UNROLL
  for (int u = 0; u < kInFlight; ++u) {
    if (first + u * kThreads >= n) continue;
    read[u] = load_group<kGroup>(source[u], from.is_f32);
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
           from_index, rows, Division(per_row));
  });
}

// One block a run and piece of columns: repeated rows are added by one thread, in order.
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void scatter_add_kernel(Rows to, Rows from, const ScatterRun* runs, const int32_t* order, int64_t per_row, Division pieces) {
  const Place place = place_of(block_index(), pieces);
  const ScatterRun run = runs[place.row];
  const int64_t group = place.group * kThreads + thread_index();
  if (group >= per_row) return;
  float sum[kGroup];
  load_floats(sum, to.at(run.row, group * kGroup), to.is_f32);
  for (int i = 0; i < run.count; i += kInFlight) {
    Group<kGroup> read[kInFlight];
    int32_t row[kInFlight];
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) row[u] = order[run.first + least(i + u, run.count - 1)];
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) read[u] = load_group<kGroup>(from.at(row[u], group * kGroup), from.is_f32);
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u >= run.count) continue;
      float x[kGroup];
      to_floats(x, read[u], from.is_f32);
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) sum[j] += x[j];
    }
  }
  store_floats(to.at(run.row, group * kGroup), to.is_f32, sum);
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
           Division(pieces));
  });
}

}  // namespace rlhi::ops::cuda
