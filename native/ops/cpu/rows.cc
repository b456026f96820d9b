// Movement of rows, and sums over them.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops/cpu/row_sums.h"

namespace rlhi::ops {
namespace {

// to[to_index ? to_index[i] : i] = from[from_index ? from_index[i] : i] for `rows` rows.
void move_rows(Backend& b, const Tensor& to, const int32_t* to_index, const Tensor& from, const int32_t* from_index, int64_t rows) {
  for_ranges(b, rows, row_grain(to.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = to_index ? to_index[i] : i, f = from_index ? from_index[i] : i;
      const size_t bytes = static_cast<size_t>(to.cols * dtype_size(to.dtype));
      if (to.dtype == from.dtype) std::memmove(row_pointer(to, t), row_pointer(from, f), bytes);
      else b.kernels.convert(row_pointer(to, t), to.dtype, row_pointer(from, f), from.dtype, to.cols, 1.0f);
    }
  });
}

}  // namespace

void copy(Backend* backend, Tensor to, Tensor from) {
  check_same_shape("copy", to, from);
  if (to.contiguous() && from.contiguous()) {  // one long row would be one task: cut it
    for_ranges(*backend, to.size(), 65536, [&](int64_t begin, int64_t end, int) {
      backend->kernels.convert(row_pointer(to, 0, begin), to.dtype, row_pointer(from, 0, begin), from.dtype, end - begin, 1.0f);
    }, kLineElements);
    return;
  }
  move_rows(*backend, to, nullptr, from, nullptr, to.rows);
}

void gather_rows(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_moved_rows("gather_rows", "from", from, "to", to);
  move_rows(*backend, to, nullptr, from, index, to.rows);
}

void scatter_rows(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_moved_rows("scatter_rows", "from", from, "to", to);
  move_rows(*backend, to, index, from, nullptr, from.rows);
}

void embedding(Backend* backend, Tensor out, Tensor table, const int32_t* ids) {
  check_moved_rows("embedding", "table", table, "out", out);
  move_rows(*backend, out, nullptr, table, ids, out.rows);
}

// Cut by columns: every thread adds all rows in order, so that repeated indices need no locks.
void scatter_add_rows(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_scatter_add(to, from);
  if (from.rows == 0) return;
  const Kernels& kernels = backend->kernels;
  std::vector<int32_t> order(static_cast<size_t>(from.rows));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return index[a] < index[b]; });
  const int64_t grain = std::max<int64_t>(128, 32768 / from.rows);
  for_ranges(*backend, from.cols, grain, [&](int64_t begin, int64_t end, int thread) {
    const int64_t n = end - begin;
    float* buffer = backend->local[static_cast<size_t>(thread)].floats(n);
    for (auto at = order.begin(); at != order.end();) {
      const int32_t row = index[*at];
      float* sum = row_buffer(to, row, begin, buffer);
      read_row(kernels, to, row, begin, n, sum);
      for (; at != order.end() && index[*at] == row; ++at) kernels.add(sum, DType::f32, row_pointer(from, *at, begin), from.dtype, n);
      store_row(kernels, to, row, begin, n, sum);
    }
  }, kLineElements);
}

void add(Backend* backend, Tensor to, Tensor from) {
  check_same_shape("add", to, from);
  if (to.contiguous() && from.contiguous()) {
    for_ranges(*backend, to.size(), 65536, [&](int64_t begin, int64_t end, int) {
      backend->kernels.add(row_pointer(to, 0, begin), to.dtype, row_pointer(from, 0, begin), from.dtype, end - begin);
    }, kLineElements);
    return;
  }
  for_ranges(*backend, to.rows, row_grain(to.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) backend->kernels.add(row_pointer(to, i), to.dtype, row_pointer(from, i), from.dtype, to.cols);
  });
}

void column_sum(Backend* backend, Tensor to, Tensor from) {
  check_column_sum(to, from);
  sum_rows(*backend, to, from.rows, [&](float* sums, int64_t i, int64_t begin, int64_t end, int) {
    backend->kernels.add(sums, DType::f32, row_pointer(from, i, begin), from.dtype, end - begin);
  });
}

}  // namespace rlhi::ops
