// AVX512-BF16: the kernels of AVX-512 with its instructions that round to bf16, and products of bf16 by VDPBF16PS, on the packing
// of tiles, for where there is that instruction but no AMX.
#if defined(__AVX512BF16__)
#include "ops/cpu/vector_avx512.h"
// after a vector layer
#include "ops/cpu/kernel_table.h"
#include "ops/cpu/kernel_tiles_softmax.h"

namespace rlhi::ops {
namespace {

// Rows [first, first + kRows) of a block. Of the factor's tiles, row i's pair p is the word a[i][p], and b[p] is a vector.
template <int kRows>
void multiply_rows(const TileProduct& t, const float* start, const SumsLayout& layout, int first) {
  constexpr int kTileWords = kTileEdge * kTileEdge;
  const auto place = [&](int i) { return (first + i) / kTileEdge * layout.below + (first + i) % kTileEdge * layout.row_floats; };
  __m512 sums[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const int64_t at = place(i);
    sums[i][0] = start ? _mm512_loadu_ps(start + at) : _mm512_setzero_ps();
    sums[i][1] = start ? _mm512_loadu_ps(start + at + layout.right) : _mm512_setzero_ps();
  }
  const auto* a = static_cast<const uint32_t*>(t.a) + first / kTileEdge * kTileWords + first % kTileEdge * kTileEdge;
  const auto* b = static_cast<const uint32_t*>(t.b);
  for (int64_t s = 0; s < t.steps; ++s) {
    for (int p = 0; p < kTileStep / 2; ++p) {
      const auto left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + p * kTileEdge));
      const auto right = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + kTileWords + p * kTileEdge));
      if (t.ahead > 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(b + p * kTileEdge) + t.ahead);
        __builtin_prefetch(reinterpret_cast<const char*>(b + kTileWords + p * kTileEdge) + t.ahead);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[i * kTileEdge + p])));
        sums[i][0] = _mm512_dpbf16_ps(sums[i][0], pair, left);
        sums[i][1] = _mm512_dpbf16_ps(sums[i][1], pair, right);
      }
    }
    for (int64_t line = 0; first == 0 && line < t.next_lines; ++line) {
      for (int64_t i = 0; i < t.next_width; ++i) __builtin_prefetch(t.next + (s * t.next_lines + line) * t.next_stride + 64 * i, 0, 2);
    }
    a += t.row_tiles * kTileWords;
    b += 2 * kTileWords;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(t.sums + place(i), sums[i][0]);
    _mm512_storeu_ps(t.sums + place(i) + layout.right, sums[i][1]);
  }
}

// Eight rows by two vectors: sixteen sums, so that none waits for the one before.
void multiply_block(const TileProduct& t) {
  if (t.finish) finish_tile_rows(*t.finish, 0, kTilePanel);
  if (t.coming) fetch_tile_rows(*t.coming, 0, kTilePanel);
  for (int row = 0; row < t.row_tiles * kTileEdge; row += 8) multiply_rows<8>(t, nullptr, SumsLayout(), row);
}

void multiply_grid(const TileGrid& g) {
  for (int i = 0; i * kTilePanel < g.rows; ++i) {
    TileProduct t;
    t.a = static_cast<const char*>(g.a) + i * g.a_panel;
    t.row_tiles = g.a_rows - i * kTilePanel > kTileEdge ? 2 : 1;
    t.steps = g.steps;
    for (int j = 0; j * kTilePanel < g.cols; ++j) {
      t.b = static_cast<const char*>(g.b) + j * g.b_panel;
      t.sums = g.sums + i * kTilePanel * g.sums_stride + j * kTilePanel;
      for (int row = 0; row < t.row_tiles * kTileEdge; row += 8) multiply_rows<8>(t, g.add ? t.sums : nullptr, SumsLayout(g.sums_stride), row);
    }
  }
}

// Rows [first, first + 8) of a strip, a vector of columns each: row i's pair p is the word a[i * a_row + p].
void multiply_strip_rows(const TileStrip& t, const uint32_t* a, int64_t a_row, int64_t a_step, const uint32_t* b, float* to) {
  constexpr int kRows = 8, kTileWords = kTileEdge * kTileEdge;
  __m512 sums[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) sums[i] = t.add ? _mm512_loadu_ps(to + i * t.sums_stride) : _mm512_setzero_ps();
  for (int64_t s = 0; s < t.steps; ++s, a += a_step, b += 2 * kTileWords) {
    for (int p = 0; p < kTileStep / 2; ++p) {
      const auto columns = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + p * kTileEdge));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        sums[i] = _mm512_dpbf16_ps(sums[i], reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[i * a_row + p]))), columns);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(to + i * t.sums_stride, sums[i]);
}

void multiply_tall(const TileStrip& t) {
  const int64_t a_row = t.a_stride / static_cast<int64_t>(sizeof(uint32_t));
  for (int row = 0; row < t.tiles * kTileEdge; row += 8) {
    multiply_strip_rows(t, static_cast<const uint32_t*>(t.a) + row * a_row, a_row, kTileEdge, static_cast<const uint32_t*>(t.b), t.sums + row * t.sums_stride);
  }
}

void multiply_wide(const TileStrip& t) {
  constexpr int kTileWords = kTileEdge * kTileEdge;
  for (int tile = 0; tile < t.tiles; ++tile) {
    const char* b = static_cast<const char*>(t.b) + tile / 2 * t.b_panel;
    for (int row = 0; row < kTileEdge; row += 8) {
      multiply_strip_rows(t, static_cast<const uint32_t*>(t.a) + row * kTileEdge, kTileEdge, kTileWords, reinterpret_cast<const uint32_t*>(b) + tile % 2 * kTileWords,
                          t.sums + row * t.sums_stride + tile * kTileEdge);
    }
  }
}

void finish_block(const TileFinish& f) { finish_tile_rows(f, 0, kTilePanel); }
void nothing() {}
constexpr int64_t kStreamBytes = int64_t{8} << 20;

double peak_loop(int64_t steps, double* flops) {
  constexpr int kChains = 12;
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const auto a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f7e3f7d)), b = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3a833a81));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  *flops = 4.0 * kChains * kWidth * static_cast<double>(steps);
  V sum = vzero();
  for (int i = 0; i < kChains; ++i) sum = sum + V{sums[i]};
  return static_cast<double>(vsum(sum));
}

}  // namespace

const Kernels* avx512_bf16_kernels() {
  static constexpr Kernels kernels = make_kernels("avx512-bf16");
  return &kernels;
}

const TileKernels* avx512_bf16_tiles() {
  static constexpr TileKernels kernels{kStreamBytes, nothing, nothing, pack_tile_rows, pack_tile_columns, multiply_block, multiply_grid, multiply_tall,
                                         multiply_wide, finish_block, combine_exponentials, attention_softmax_factors, attention_softmax_backward_factors, peak_loop};
  return &kernels;
}

}  // namespace rlhi::ops
#else  // not an x86 build
#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const Kernels* avx512_bf16_kernels() { return nullptr; }
const TileKernels* avx512_bf16_tiles() { return nullptr; }

}  // namespace rlhi::ops
#endif
