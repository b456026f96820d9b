// What forward and backward attention share where products are made by tiles of bf16 (q, k and v are bf16; scores, probabilities
// and sums are f32, probabilities and their gradients are rounded to bf16 where they are a product's factor).
//
// Walk and layout are attention_tile.h's: scores are kept transposed, [keys][columns]. A product is [keys or head_dim] by columns, so
// that what belongs to one query lies in one lane.
#pragma once
#include <cstring>

#include "ops/cpu/attention_backward_plan.h"

namespace rlhi::ops {

constexpr int64_t kStepHalves = int64_t{kTilePanel} * kTileStep;  // of a panel's step: bf16 values
constexpr int64_t kStepBytes = kStepHalves * static_cast<int64_t>(sizeof(bf16));

// Whether attention over these tensors goes by tiles.
inline bool uses_tiles(const Backend& backend, const AttentionArgs& a) {
  return backend.tiles && a.q.dtype == DType::bf16 && a.k.dtype == DType::bf16 && a.v.dtype == DType::bf16;
}

inline int64_t steps_of(int64_t k) { return (k + kTileStep - 1) / kTileStep; }
inline int row_tiles_of(int64_t rows) { return rows > kTileEdge ? 2 : 1; }

// Packed panels of one matrix, a panel after the other.
struct Panels {
  bf16* data = nullptr;
  int64_t steps = 0;                 // of k
  int64_t rows = 0;                  // of a left factor: its last panel may be of one tile
  bf16* panel(int64_t i) const { return data + i * steps * kStepHalves; }
};

class TileProducts {
 public:
  explicit TileProducts(const TileKernels& tiles) : tiles_(tiles) {}

  // rows (or, turned, columns) of `from` as left factor: [rows, k], or [k, rows] when turned
  Panels pack_left(bf16* to, const void* from, DType dtype, int64_t stride, bool turned, int64_t rows, int64_t k) const {
    const Panels panels{to, steps_of(k), rows};
    for (int64_t i = 0; i * kTilePanel < rows; ++i) {
      const int64_t first = i * kTilePanel * (turned ? 1 : stride);
      tiles_.pack_rows(panels.panel(i), static_cast<const char*>(from) + first * dtype_size(dtype), dtype, stride, turned,
                       static_cast<int>(std::min<int64_t>(kTilePanel, rows - i * kTilePanel)), k);
    }
    return panels;
  }
  // as right factor: [k, cols], or [cols, k] when turned
  Panels pack_right(bf16* to, const void* from, DType dtype, int64_t stride, bool turned, int64_t cols, int64_t k) const {
    const Panels panels{to, steps_of(k)};
    for (int64_t j = 0; j * kTilePanel < cols; ++j) {
      const int64_t first = j * kTilePanel * (turned ? stride : 1);
      tiles_.pack_columns(panels.panel(j), static_cast<const char*>(from) + first * dtype_size(dtype), dtype, stride, turned,
                          static_cast<int>(std::min<int64_t>(kTilePanel, cols - j * kTilePanel)), k);
    }
    return panels;
  }

  // sums [rows, cols] (+)= a b over the first `steps` steps of both. Panels of a from its first, of b from `b_panel`. Sums are written
  // by whole tiles, up to 31 rows beyond `rows`; beyond those that a has, zeros are added.
  void multiply(const Panels& a, int64_t rows, const Panels& b, int64_t b_panel, int64_t cols, int64_t steps, float* sums, int64_t stride,
                bool add) const {
    TileGrid t;
    t.a = a.data, t.a_panel = a.steps * kStepBytes, t.a_rows = static_cast<int>(a.rows), t.rows = static_cast<int>(rows);
    t.b = b.panel(b_panel), t.b_panel = b.steps * kStepBytes, t.cols = static_cast<int>(cols);
    t.steps = steps;
    t.add = add;
    t.sums = sums, t.sums_stride = stride;
    tiles_.multiply_grid(t);
  }

 private:
  const TileKernels& tiles_;
};

// The columns' rows of t (q, dout) one after the other, `stride` apart, zero beyond head_dim and up to a whole panel of columns.
inline void gather_halves(const QueryTile& tile, const Tensor& t, bf16* to, int64_t stride) {
  const int64_t n = tile.args.head_dim;
  for (int c = 0; c < tile.columns; ++c) {
    std::memcpy(to + c * stride, row_pointer(t, tile.row(c), tile.head(c) * n), static_cast<size_t>(n) * sizeof(bf16));
    std::memset(to + c * stride + n, 0, static_cast<size_t>(stride - n) * sizeof(bf16));
  }
  const int64_t whole = round_up(tile.columns, kTilePanel);
  std::memset(to + tile.columns * stride, 0, static_cast<size_t>((whole - tile.columns) * stride) * sizeof(bf16));
}

// Row c of t from column c of by_dim [head_dim][kScoreStride], times factors[c].
inline void scatter_columns(const Kernels& kernels, const QueryTile& tile, const float* by_dim, const float* factors, float* scratch,
                            const Tensor& t) {
  const int64_t n = tile.args.head_dim;
  for (int64_t d = 0; d < n; d += kernels.nr) {
    const int64_t width = std::min<int64_t>(kernels.nr, n - d);
    kernels.pack_b(scratch, DType::f32, by_dim + d * kScoreStride, DType::f32, kScoreStride, true, static_cast<int>(width), tile.columns);
    for (int c = 0; c < tile.columns; ++c) {
      kernels.convert(row_pointer(t, tile.row(c), tile.head(c) * n + d), t.dtype, scratch + c * kernels.nr, DType::f32, width, factors[c]);
    }
  }
}

void attention_by_tiles(Backend* backend, Scratch& scratch, const QueryTile& tile);

// attention_tiles_backward.cc
inline bool backward_uses_tiles(const Backend& backend, const AttentionBackwardArgs& args) {
  return uses_tiles(backend, args.forward) && args.dout.dtype == DType::bf16;
}
void attention_backward_by_tiles(Backend* backend, Scratch& scratch, const AttentionBackwardArgs& args, const BackwardPlan& plan,
                                 const BackwardTask& task, SharedKeyGradients* shared);

}  // namespace rlhi::ops
