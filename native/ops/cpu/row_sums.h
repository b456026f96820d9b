// Sums over rows: of chunks of rows first, which then are added in order, so that the number of threads does not matter.
#pragma once
#include <cstring>

#include "ops/cpu/backend.h"

namespace rlhi::ops {

constexpr int64_t kRowsPerPartial = 64;  // rows of a chunk

inline int64_t chunks_of(int64_t rows) { return (rows + kRowsPerPartial - 1) / kRowsPerPartial; }

// to[0, j] += the chunks' sums, partial [chunks, to.cols].
inline void add_partials(Backend& backend, const Tensor& to, const float* partial, int64_t chunks) {
  const int64_t n = to.cols;
  for_ranges(
      backend, n, std::max(kLineElements, 2048 / std::max<int64_t>(1, chunks)),
      [&](int64_t begin, int64_t end, int) {
        for (int64_t c = 0; c < chunks; ++c) {
          backend.kernels.add(row_pointer(to, 0, begin), DType::f32, partial + c * n + begin, DType::f32, end - begin);
        }
      },
      kLineElements);
}

// to[0, j] += sum over all rows; add_row(sums, row, begin, end, thread) adds columns [begin, end) of a row to `sums`.
template <class F>
void sum_rows(Backend& backend, const Tensor& to, int64_t rows, const F& add_row) {
  const int64_t chunks = chunks_of(rows), n = to.cols, lines = (n + kLineElements - 1) / kLineElements;
  const int64_t slices =
      std::clamp<int64_t>(4 * backend.pool.threads() / std::max<int64_t>(1, chunks), 1, lines);  // of columns: few chunks are cut
  float* partial = backend.partial.floats(chunks * n);
  for_ranges(backend, chunks * slices, 1, [&](int64_t item, int64_t, int thread) {
    const int64_t chunk = item / slices, slice = item % slices;
    const int64_t begin = slice * lines / slices * kLineElements, end = std::min(n, (slice + 1) * lines / slices * kLineElements);
    float* sums = partial + chunk * n + begin;
    std::memset(sums, 0, static_cast<size_t>(end - begin) * sizeof(float));
    for (int64_t i = chunk * kRowsPerPartial; i < std::min(rows, (chunk + 1) * kRowsPerPartial); ++i)
      add_row(sums, i, begin, end, thread);
  });
  add_partials(backend, to, partial, chunks);
}

}  // namespace rlhi::ops
