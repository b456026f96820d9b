#include "ops/cpu/attention_tile.h"

namespace rlhi::ops {

void gather_columns(const Kernels& kernels, const QueryTile& tile, const Tensor& t, float scale, float* to, int64_t stride) {
  const int n = tile.args.head_dim;
  for (int c = 0; c < tile.columns; ++c) {
    kernels.convert(to + c * stride, DType::f32, row_pointer(t, tile.row(c), tile.head(c) * n), t.dtype, n, scale);
  }
}

void pack_columns_of(const Kernels& kernels, const QueryTile& tile, const float* rows, int64_t stride, float* to) {
  const int64_t k = tile.args.head_dim;
  for (int c = 0; c < tile.columns; c += kernels.nr) {
    kernels.pack_b(to + c * k, DType::f32, rows + c * stride, DType::f32, stride, true, std::min(kernels.nr, tile.columns - c), k);
  }
}

void pack_keys(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, float* to) {
  const int64_t k = tile.args.head_dim;
  const RowPanels panels(block.packed, kernels.mr);
  for (int64_t i = 0; i < panels.count; ++i) {
    const int64_t row = panels.begin(i);
    kernels.pack_a(to + row * k, row_pointer(t, block.row + row, tile.kv_head * k), t.dtype, t.row_stride, false, panels.size(i), k);
  }
}

const float* key_rows(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, float* to, int64_t& stride) {
  const int64_t k = tile.args.head_dim;
  if (t.dtype == DType::f32 && k % kernels.width == 0) {
    stride = t.row_stride;
    return reinterpret_cast<const float*>(row_pointer(t, block.row, tile.kv_head * k));
  }
  stride = round_up(k, kernels.nr);
  for (int i = 0; i < block.keys; ++i) {
    kernels.convert(to + i * stride, DType::f32, row_pointer(t, block.row + i, tile.kv_head * k), t.dtype, k, 1.0f);
  }
  return to;
}

void multiply_keys(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* keys, const float* columns,
                   float* scores) {
  const RowPanels panels(block.packed, kernels.mr);
  GemmTile t;
  t.k = part.args.head_dim;
  t.b_stride = kernels.nr;
  t.out_stride = kScoreStride;
  for (int c = 0; c < part.columns; c += kernels.nr) {
    t.b = columns + static_cast<int64_t>(c) * t.k;
    t.cols = std::min(kernels.nr, static_cast<int>(round_up(part.columns - c, kernels.width)));  // whole vectors, for the softmax
    for (int64_t i = 0; i < panels.count && panels.begin(i) < block.keys; ++i) {
      const int64_t row = panels.begin(i);
      t.rows = panels.size(i);
      t.a = keys + row * t.k;
      t.a_stride = t.rows;
      t.out = scores + row * kScoreStride + c;
      kernels.gemm_tile(t);
    }
  }
}

void multiply_few(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, const float* queries,
                  float* scratch, float* scores) {
  const int64_t k = tile.args.head_dim;
  float* by_column = scratch + round_up(kKeyBlock, kernels.nr) * k;  // [columns][key_block]
  GemmTile g;
  g.rows = tile.columns;
  g.k = k;
  g.a = queries;
  g.a_stride = tile.columns;
  g.b = scratch;
  g.b_stride = kernels.nr;
  g.out_stride = kKeyBlock;
  for (int first = 0; first < block.keys; first += kernels.nr) {
    const int keys = std::min(kernels.nr, block.keys - first);
    kernels.pack_b(scratch, DType::f32, row_pointer(t, block.row + first, tile.kv_head * k), t.dtype, t.row_stride, true, keys, k);
    g.cols = std::min(kernels.nr, static_cast<int>(round_up(keys, kernels.width)));
    g.out = by_column + first;
    kernels.gemm_tile(g);
  }
  for (int c = 0; c < tile.columns; ++c) {
    for (int i = 0; i < block.keys; ++i) scores[i * kScoreStride + c] = by_column[c * kKeyBlock + i];
  }
}

void add_to_columns(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* scores, const float* rows,
                    int64_t stride, float* sums, int64_t sums_stride) {
  const RowPanels panels(part.columns, kernels.mr);
  GemmTile t;
  t.k = block.keys;
  t.a_stride = kScoreStride;
  t.b_stride = stride;
  t.in_stride = t.out_stride = sums_stride;
  for (int d = 0; d < part.args.head_dim; d += kernels.nr) {
    t.b = rows + d;
    t.cols = std::min(kernels.nr, part.args.head_dim - d);
    for (int64_t i = 0; i < panels.count; ++i) {
      const int64_t column = panels.begin(i);
      float* to = sums + column * sums_stride + d;
      t.rows = panels.size(i);
      t.a = scores + column;
      t.in = to;
      t.out = to;
      kernels.gemm_tile(t);
    }
  }
}

void add_to_keys(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* scores, const float* columns,
                 int64_t stride, float* sums, int64_t sums_stride) {
  const RowPanels panels(block.keys, kernels.mr);
  GemmTile t;
  t.k = part.columns;
  t.a_by_rows = true;
  t.b_stride = stride;
  t.in_stride = t.out_stride = sums_stride;
  for (int d = 0; d < part.args.head_dim; d += kernels.nr) {
    t.b = columns + d;
    t.cols = std::min(kernels.nr, part.args.head_dim - d);
    for (int64_t i = 0; i < panels.count; ++i) {
      const int64_t key = panels.begin(i);
      float* to = sums + key * sums_stride + d;
      t.rows = panels.size(i);
      t.a = scores + key * kScoreStride;
      t.in = to;
      t.out = to;
      kernels.gemm_tile(t);
    }
  }
}

}  // namespace rlhi::ops
