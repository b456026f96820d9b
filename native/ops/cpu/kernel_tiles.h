// Products of bf16 matrices by tiles of 16 x 32: packing, and what is done with a finished block of sums.
//
// Packed rows (the left factor): panels of 32 rows; a step of a panel is 32 columns of k as one or two tiles, each 16 rows of
// 64 bytes. Packed columns (the right factor): panels of 32 columns; a step is two tiles, each 16 pairs of k by 16 columns,
// a pair side by side. Both are zero beyond the matrix. It is the layout of AMX (Intel SDM, TDPBF16PS); other instruction
// sets read the same one.
#pragma once
#include <type_traits>

#include "ops/cpu/kernel_math.h"

namespace {

using rlhi::ops::kTileEdge;
using rlhi::ops::kTilePanel;
using rlhi::ops::kTileStep;

constexpr int kTileHalves = kTileEdge * kTileStep;  // bf16 values of one packed tile

// Two rows' elements as pairs of bf16, `low` first in memory.
inline V load_pair(const bf16* low, const bf16* high) { return halves_pair(halves_load(low), halves_load(high)); }
inline V load_pair(const float* low, const float* high) { return round_pair(vload(low), vload(high)); }

// to[i][p] = from[i, p] for `rows` rows, zero up to 16 or 32.
void pack_rows_block(bf16* to, const bf16* from, int64_t stride, int rows, int row_tiles) {
  for (int i = 0; i < rows; ++i) __builtin_memcpy(to + i * kTileStep, from + i * stride, kTileStep * sizeof(bf16));
  __builtin_memset(to + rows * kTileStep, 0, static_cast<size_t>(row_tiles * kTileEdge - rows) * kTileStep * sizeof(bf16));
}
void pack_rows_block(bf16* to, const float* from, int64_t stride, int rows, int row_tiles) {
  for (int i = 0; i < rows; ++i) {
    for (int p = 0; p < kTileStep; p += kWidth) vstore(to + i * kTileStep + p, vload(from + i * stride + p));
  }
  __builtin_memset(to + rows * kTileStep, 0, static_cast<size_t>(row_tiles * kTileEdge - rows) * kTileStep * sizeof(bf16));
}

// to[i][p] = from[p, i] for 16 or 32 rows i: pairs of p first, then pairs become columns.
template <class T>
void pack_rows_block_turned(bf16* to, const T* from, int64_t stride, int row_tiles) {
  constexpr int kPairs = kTileStep / 2;
  alignas(64) float pairs[kPairs * kTileEdge];
  for (int tile = 0; tile < row_tiles; ++tile) {
    for (int pair = 0; pair < kPairs; ++pair) {
      const T* p = from + 2 * pair * stride + tile * kTileEdge;
      for (int i = 0; i < kTileEdge; i += kWidth) vstore(pairs + pair * kTileEdge + i, load_pair(p + i, p + stride + i));
    }
    for (int i = 0; i < kTileEdge; i += kWidth) {
      for (int pair = 0; pair < kPairs; pair += kWidth) {
        V r[kWidth];
        vload_turned(pairs + pair * kTileEdge + i, kTileEdge * sizeof(float), r);
        for (int l = 0; l < kWidth; ++l) vstore(reinterpret_cast<float*>(to + (tile * kTileEdge + i + l) * kTileStep + 2 * pair), r[l]);
      }
    }
  }
}

// to[tile][p / 2][j][p % 2] = from[p, j] for `length` rows p, zero up to 32.
template <class T>
void pack_columns_block(bf16* to, const T* from, int64_t stride, int length) {
  alignas(64) static constexpr T kZeros[kTilePanel] = {};
  for (int j = 0; j < kTilePanel; j += kWidth) {
    bf16* tile = to + j / kTileEdge * kTileHalves + j % kTileEdge * 2;
    int pair = 0;
    for (; 2 * pair + 1 < length; ++pair) {
      const T* p = from + 2 * pair * stride + j;
      vstore(reinterpret_cast<float*>(tile + pair * kTileStep), load_pair(p, p + stride));
    }
    if (2 * pair < length) {
      vstore(reinterpret_cast<float*>(tile + pair * kTileStep), load_pair(from + 2 * pair * stride + j, kZeros + j));
      ++pair;
    }
    for (; pair < kTileStep / 2; ++pair) vstore(reinterpret_cast<float*>(tile + pair * kTileStep), vzero());
  }
}

// to[tile][p / 2][j][p % 2] = from[j, p]
void pack_columns_block_turned(bf16* to, const bf16* from, int64_t stride) {
  for (int j = 0; j < kTilePanel; j += kWidth) {
    bf16* tile = to + j / kTileEdge * kTileHalves + j % kTileEdge * 2;
    for (int pair = 0; pair < kTileStep / 2; pair += kWidth) {
      V r[kWidth];
      vload_turned(from + j * stride + 2 * pair, stride * static_cast<int64_t>(sizeof(bf16)), r);
      for (int l = 0; l < kWidth; ++l) vstore(reinterpret_cast<float*>(tile + (pair + l) * kTileStep), r[l]);
    }
  }
}

// A block of up to 32 x 32 as bf16, zero beyond: for f32 matrices and for edges.
struct StagedBlock {
  alignas(64) bf16 values[kTilePanel * kTileStep];

  template <class T>
  const bf16* fill(const T* from, int64_t stride, int rows, int cols) {
    __builtin_memset(values, 0, sizeof values);
    for (int i = 0; i < rows; ++i) {
      for_vectors(cols, [&](int64_t j, int n) { store_up_to(values + i * kTileStep + j, load_up_to(from + i * stride + j, n), n); });
    }
    return values;
  }
};

// Calls f(block, its stride, step, length) for every 32 columns of k, or what is left, of a panel of `count` rows (along k) or columns
// (across). The block is of the matrix itself where f can take it (kInPlace, whole_count) and it is 32 long (or any_length), else staged.
template <bool kInPlace, class T, class F>
void for_steps(const T* from, int64_t stride, bool along_k, int count, int64_t k, bool whole_count, bool any_length, const F& f) {
  StagedBlock staged;
  for (int64_t step = 0; step * kTileStep < k; ++step) {
    const int length = k - step * kTileStep < kTileStep ? static_cast<int>(k - step * kTileStep) : kTileStep;
    const T* block = along_k ? from + step * kTileStep : from + step * kTileStep * stride;
    if constexpr (kInPlace) {
      if (whole_count && (length == kTileStep || any_length)) {
        f(block, stride, step, length);
        continue;
      }
    }
    f(along_k ? staged.fill(block, stride, count, length) : staged.fill(block, stride, length, count), static_cast<int64_t>(kTileStep), step, length);
  }
}

void pack_tile_rows(void* to, const void* from, DType dtype, int64_t stride, bool transposed, int rows, int64_t k) {
  const int row_tiles = rows > kTileEdge ? 2 : 1;
  const auto place = [&](int64_t step) { return static_cast<bf16*>(to) + step * row_tiles * kTileHalves; };
  with_type(from, dtype, [&](const auto* p) {
    if (transposed) {
      for_steps<true>(p, stride, false, rows, k, rows % kTileEdge == 0, false,
                      [&](const auto* b, int64_t s, int64_t step, int) { pack_rows_block_turned(place(step), b, s, row_tiles); });
    } else {
      for_steps<true>(p, stride, true, rows, k, true, false,
                      [&](const auto* b, int64_t s, int64_t step, int) { pack_rows_block(place(step), b, s, rows, row_tiles); });
    }
  });
}

void pack_tile_columns(void* to, const void* from, DType dtype, int64_t stride, bool transposed, int cols, int64_t k) {
  const auto place = [&](int64_t step) { return static_cast<bf16*>(to) + step * 2 * kTileHalves; };
  const bool whole = cols == kTilePanel;
  with_type(from, dtype, [&](const auto* p) {
    if (transposed) {  // whole words are moved, so f32 is rounded first
      for_steps<sizeof(*p) == sizeof(bf16)>(p, stride, true, cols, k, whole, false,
                                            [&](const bf16* b, int64_t s, int64_t step, int) { pack_columns_block_turned(place(step), b, s); });
    } else {
      for_steps<true>(p, stride, false, cols, k, whole, true,
                      [&](const auto* b, int64_t s, int64_t step, int length) { pack_columns_block(place(step), b, s, length); });
    }
  });
}

// Where the four tiles of a block of sums begin, in floats, and how far apart a tile's rows are.
struct SumsLayout {
  SumsLayout() = default;            // tiles one after the other
  explicit SumsLayout(int64_t stride) : right(kTileEdge), below(kTileEdge * stride), row_floats(stride) {}
  int64_t row_bytes() const { return row_floats * static_cast<int64_t>(sizeof(float)); }
  int64_t right = kTileEdge * kTileEdge, below = 2 * kTileEdge * kTileEdge, row_floats = kTileEdge;
};

// Columns [j, j + kWidth) of row i of a block of sums: its right half lies a tile further.
inline V tile_sums(const rlhi::ops::TileFinish& f, int i, int64_t j) {
  constexpr int kTile = kTileEdge * kTileEdge;
  return vload(f.sums + i / kTileEdge * 2 * kTile + i % kTileEdge * kTileEdge + (j < kTileEdge ? j : j - kTileEdge + kTile));
}

// Rows [begin, end) of whole rows of 32.
template <bool kBias, class In, bool kGate, class T>
inline void finish_whole_rows(const rlhi::ops::TileFinish& f, int begin, int end, T* out) {
  for (int i = begin; i < end; ++i) {
    T* to = out + i * f.out_stride;
#pragma GCC unroll 4
    for (int j = 0; j < kTilePanel; j += 2 * kWidth) {
      V low = tile_sums(f, i, j), high = tile_sums(f, i, j + kWidth);
      if constexpr (kBias) low = low + vload(f.bias + j), high = high + vload(f.bias + j + kWidth);
      if constexpr (!std::is_void_v<In>) {
        const In* in = static_cast<const In*>(f.in) + i * f.in_stride + j;
        low = vload(in) + low, high = vload(in + kWidth) + high;
      }
      if constexpr (kGate) {
        const T* gate = static_cast<const T*>(f.gate) + i * kTilePanel + j;
        low = vgated<T>(vload(gate), low), high = vgated<T>(vload(gate + kWidth), high);
      }
      if (f.stream) vstream(to + j, low, high);
      else vstore(to + j, low), vstore(to + j + kWidth, high);
    }
  }
}

template <class T>
inline void finish_cut_row(const rlhi::ops::TileFinish& f, int i, T* out) {
  with_type(f.in, f.in_dtype, [&](const auto* in) {
    for_vectors(f.cols, [&](int64_t j, int n) {
      V x = tile_sums(f, i, j);
      if (f.bias) x = x + load_up_to(f.bias + j, n);
      if (in) x = load_up_to(in + i * f.in_stride + j, n) + x;
      store_up_to(out + j, x, n);
    });
  });
}

// Columns [j, j + kWidth) of row i of a block of logits; -inf beyond its columns.
inline V block_logits(const rlhi::ops::TileFinish& f, int i, int j) {
  static constexpr float kNone = -__builtin_inff();
  alignas(64) static constexpr float kBeyond[2 * kTilePanel] = {
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone,
      kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone,
      kNone, kNone};
  V x = tile_sums(f, i, j);
  if (f.in) x = vload(static_cast<const float*>(f.in) + i * f.in_stride + j) + x;
  return f.cols == kTilePanel ? x : x + vload(kBeyond + kTilePanel - f.cols + j);
}

inline void carry_exponentials(const rlhi::ops::TileFinish& f, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    float *maxima = f.maxima + i * kTileEdge, *sums = f.exponentials + i * kTileEdge;
#pragma GCC unroll 4
    for (int l = 0; l < kTileEdge; l += kWidth) {
      const V low = block_logits(f, i, l), high = block_logits(f, i, l + kTileEdge), before = vload(maxima + l);
      const V maximum = vmax(before, vmax(low, high));
      vstore(maxima + l, maximum);
      vstore(sums + l, vfma(vload(sums + l), vexp(before - maximum), vexp(low - maximum) + vexp(high - maximum)));
    }
    const int target = f.targets[i] - f.first_column;
    if (target < 0 || target >= f.cols) continue;
    const float sum = f.sums[i / kTileEdge * 2 * kTileEdge * kTileEdge + target / kTileEdge * kTileEdge * kTileEdge + i % kTileEdge * kTileEdge + target % kTileEdge];
    f.target_logits[i] = f.in ? static_cast<const float*>(f.in)[i * f.in_stride + target] + sum : sum;
  }
}

inline void head_gradient(const rlhi::ops::TileFinish& f, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    bf16* to = static_cast<bf16*>(f.out) + i * f.out_stride;
    const V lse = vset(f.lse[i]), factor = vset(-f.dlogps[i]);
    alignas(64) float row[kTilePanel];
#pragma GCC unroll 4
    for (int j = 0; j < kTilePanel; j += kWidth) vstore(row + j, vexp(block_logits(f, i, j) - lse) * factor);
    const int target = f.targets[i] - f.first_column;
    if (target >= 0 && target < f.cols) row[target] += f.dlogps[i];
    for_vectors(f.cols, [&](int64_t j, int n) { store_up_to(to + j, load_up_to(row + j, n), n); });
  }
}

void combine_exponentials(const float* x, const float* sums, int64_t n, float* maximum, float* sum) {
  *maximum = row_max(x, n);
  V total = vzero();
  for_vectors(n, [&](int64_t i, int count) {       // sums beyond the last are zero
    total = vfma(load_up_to(sums + i, count), vexp(load_up_to(x + i, count) - vset(*maximum)), total);
  });
  *sum = vsum(total);
}

// Rows [begin, end) of what a block of sums will be added to.
inline void fetch_tile_rows(const rlhi::ops::TileFinish& f, int begin, int end) {
  if (end > f.rows) end = f.rows;
  const int64_t size = f.in_dtype == DType::f32 ? 4 : 2;
  for (int i = begin; i < end; ++i) {
    const char* row = static_cast<const char*>(f.in) + i * f.in_stride * size;
    for (int64_t at = 0; at < kTilePanel * size; at += 64) __builtin_prefetch(row + at, 1);
  }
}

// Rows [begin, end) of a block of sums, as far as there are any, to where they belong.
inline void finish_tile_rows(const rlhi::ops::TileFinish& f, int begin, int end) {
  if (end > f.rows) end = f.rows;
  if (f.targets) return f.maxima ? carry_exponentials(f, begin, end) : head_gradient(f, begin, end);
  with_type(f.out, f.out_dtype, [&](auto* out) {
    if (f.cols < kTilePanel) {
      for (int i = begin; i < end; ++i) finish_cut_row(f, i, out + i * f.out_stride);
    } else if (f.gate) {
      if (f.in) finish_whole_rows<false, float, true>(f, begin, end, out);
      else finish_whole_rows<false, void, true>(f, begin, end, out);
    } else if (f.in && f.in_dtype == DType::bf16) {
      if (f.bias) finish_whole_rows<true, bf16, false>(f, begin, end, out);
      else finish_whole_rows<false, bf16, false>(f, begin, end, out);
    } else if (f.in) {
      if (f.bias) finish_whole_rows<true, float, false>(f, begin, end, out);
      else finish_whole_rows<false, float, false>(f, begin, end, out);
    } else if (f.bias) {
      finish_whole_rows<true, void, false>(f, begin, end, out);
    } else {
      finish_whole_rows<false, void, false>(f, begin, end, out);
    }
  });
}

}  // namespace
