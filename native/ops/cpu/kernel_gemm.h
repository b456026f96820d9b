// Packing and the register tile of the matrix product.
//
// Every element of the result is a sum over k in order, by one vfma a term, whatever the tile's height, width or place:
// that is what makes rows independent of the batch around them.
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

constexpr int kTileWidth = kTileVectors * kWidth;

// kRows rows by kVectors vectors, accumulated in registers; whole f32 tiles without a bias are finished there too
// (sums is null), others are left in `sums`, kTileWidth floats a row.
template <int kRows, int kVectors, class TB, bool kByRows>
void multiply_tile(const rlhi::ops::GemmTile& t, float* sums) {
  V acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[i][v] = vzero();
  }
  const float* a = t.a;
  const TB* b = static_cast<const TB*>(t.b);
  const int64_t a_stride = kByRows ? 1 : t.a_stride, b_stride = t.b_stride;
  const char* ahead = t.prefetch ? static_cast<const char*>(t.prefetch) : static_cast<const char*>(t.b);
  const int64_t ahead_stride = t.prefetch ? t.prefetch_stride : 0;
  for (int64_t p = 0; p < t.k; ++p) {
    V bv[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) bv[v] = vload(b + v * kWidth);
    __builtin_prefetch(ahead);
    __builtin_prefetch(ahead + 64);
    ahead += ahead_stride;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const V av = vset(a[kByRows ? i * rlhi::ops::kScoreStride : i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = vfma(av, bv[v], acc[i][v]);
    }
    a += a_stride;
    b += b_stride;
  }
  if (sums) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) vstore(sums + i * kTileWidth + v * kWidth, acc[i][v]);
    }
    return;
  }
  float* out = static_cast<float*>(t.out);
  if (const float* in = static_cast<const float*>(t.in)) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, in += t.in_stride, out += t.out_stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) vstore(out + v * kWidth, vload(in + v * kWidth) + acc[i][v]);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, out += t.out_stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) vstore(out + v * kWidth, acc[i][v]);
    }
  }
}

using MultiplyTile = void (*)(const rlhi::ops::GemmTile&, float*);

// multiply_tile for every height and width of one kind.
template <class TB, bool kByRows>
struct TileTable {
  MultiplyTile at[kTileRows][kTileVectors];
  template <int kRow, int kVector>
  constexpr void fill() {
    at[kRow][kVector] = multiply_tile<kRow + 1, kVector + 1, TB, kByRows>;
    if constexpr (kVector + 1 < kTileVectors) fill<kRow, kVector + 1>();
    else if constexpr (kRow + 1 < kTileRows) fill<kRow + 1, 0>();
  }
  constexpr TileTable() : at() { fill<0, 0>(); }
};
constexpr TileTable<float, false> kTilesF32;
constexpr TileTable<bf16, false> kTilesBf16;
constexpr TileTable<float, true> kTilesByRows;

// out = (in + bias) + sums, row by row.
template <class In, class T>
void finish_tile(const rlhi::ops::GemmTile& t, const float* sums, const In* before, T* out) {
  for (int i = 0; i < t.rows; ++i) {
    const float* row = sums + i * kTileWidth;
    const In* in = before ? before + i * t.in_stride : nullptr;
    T* to = out + i * t.out_stride;
    for_vectors(t.cols, [&](int64_t j, int n) {
      V x = vload(row + j);
      if (in && t.bias) x = (load_up_to(in + j, n) + load_up_to(t.bias + j, n)) + x;
      else if (in) x = load_up_to(in + j, n) + x;
      else if (t.bias) x = load_up_to(t.bias + j, n) + x;
      store_up_to(to + j, x, n);
    });
  }
}

void gemm_tile(const rlhi::ops::GemmTile& t) {
  const int row = t.rows - 1, vector = (t.cols + kWidth - 1) / kWidth - 1;
  const MultiplyTile multiply = t.a_by_rows                   ? kTilesByRows.at[row][vector]
                                : t.b_dtype == DType::f32 ? kTilesF32.at[row][vector]
                                                          : kTilesBf16.at[row][vector];
  if (t.out_dtype == DType::f32 && t.in_dtype == DType::f32 && !t.bias && t.cols % kWidth == 0) {
    multiply(t, nullptr);
    return;
  }
  alignas(64) float sums[kTileRows * kTileWidth];
  multiply(t, sums);
  with_type(t.in, t.in_dtype, [&](const auto* in) { with_type(t.out, t.out_dtype, [&](auto* out) { finish_tile(t, sums, in, out); }); });
}

// to[p * height + i] = from[i * stride + p] for i < rows; rows beyond, up to height, are zero.
template <class TTo, class T>
void pack_turned(TTo* to, int height, const T* from, int64_t stride, int rows, int64_t k) {
  int64_t p = 0;
  for (; p + kWidth <= k; p += kWidth) {
    for (int i = 0; i < height; i += kWidth) {
      V r[kWidth];
      for (int l = 0; l < kWidth; ++l) {
        r[l] = vzero();
        if (i + l >= rows) continue;
        const T* row = from + (i + l) * stride + p;
        r[l] = vload(row);
        __builtin_prefetch(row + 64);
      }
      vtranspose(r);
      const int n = height - i < kWidth ? height - i : kWidth;
      for (int l = 0; l < kWidth; ++l) store_up_to(to + (p + l) * height + i, r[l], n);
    }
  }
  for (; p < k; ++p) {
    for (int i = 0; i < height; ++i) vstore_n(to + p * height + i, i < rows ? vload_n(from + i * stride + p, 1) : vzero(), 1);
  }
}

// to[p * height + i] = from[p * stride + i] for i < rows; zero up to height.
template <class TTo, class T>
void pack_straight(TTo* to, int height, const T* from, int64_t stride, int rows, int64_t k) {
  for (int64_t p = 0; p < k; ++p) {
    for (int i = 0; i < height; i += kWidth) {
      const int n = rows - i < kWidth ? rows - i : kWidth;
      const V x = n <= 0 ? vzero() : load_up_to(from + p * stride + i, n);
      store_up_to(to + p * height + i, x, height - i < kWidth ? height - i : kWidth);
    }
  }
}

void pack_a(float* to, const void* a, DType dtype, int64_t stride, bool transposed, int rows, int64_t k) {
  with_type(a, dtype, [&](const auto* from) {
    if (transposed) pack_straight(to, rows, from, stride, rows, k);
    else pack_turned(to, rows, from, stride, rows, k);
  });
}

void pack_b(void* to, DType to_dtype, const void* b, DType dtype, int64_t stride, bool transposed, int cols, int64_t k) {
  with_type(to, to_dtype, [&](auto* out) {
    with_type(b, dtype, [&](const auto* from) {
      if (transposed) pack_turned(out, kTileWidth, from, stride, cols, k);
      else pack_straight(out, kTileWidth, from, stride, cols, k);
    });
  });
}

}  // namespace
