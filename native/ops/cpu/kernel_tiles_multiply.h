// The product of one block, 32 x 32 sums in four tiles, over any tile layer (include one, and a vector layer, first).
#pragma once
#include "ops/cpu/kernel_tiles_softmax.h"

namespace {

constexpr int kTileBytes = 1024;       // of a tile of a factor, and of sums

// The left factor is read once while the right one is used by every row panel, so the loads of the left one bypass the first
// cache: a right panel of 18 steps stays there, and the product runs at nine tenths of what it does in registers.
template <int kRowTiles>
inline void begin_sums(const float* start, const SumsLayout& at) {
  tiles_see_memory();
  if (start) {
    tile_load<0>(start, at.row_bytes());
    tile_load<1>(start + at.right, at.row_bytes());
    if constexpr (kRowTiles == 2) {
      tile_load<2>(start + at.below, at.row_bytes());
      tile_load<3>(start + at.below + at.right, at.row_bytes());
    }
  } else {
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (kRowTiles == 2) {
      tile_zero<2>();
      tile_zero<3>();
    }
  }
}

template <int kRowTiles>
inline void store_sums(float* sums, const SumsLayout& at) {
  tile_store<0>(sums, at.row_bytes());
  tile_store<1>(sums + at.right, at.row_bytes());
  if constexpr (kRowTiles == 2) {
    tile_store<2>(sums + at.below, at.row_bytes());
    tile_store<3>(sums + at.below + at.right, at.row_bytes());
  }
}

template <int kRowTiles, bool kOnce>
inline void multiply_step(const char* a, const char* b) {
  kOnce ? tile_load_once<4>(a) : tile_load<4>(a);
  tile_load<6>(b);
  tile_load<7>(b + kTileBytes);
  tile_multiply<0, 4, 6>();
  if constexpr (kRowTiles == 2) kOnce ? tile_load_once<5>(a + kTileBytes) : tile_load<5>(a + kTileBytes);
  tile_multiply<1, 4, 7>();
  if constexpr (kRowTiles == 2) {
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
  }
}

template <int kRowTiles>
void multiply_tiles(const rlhi::ops::TileProduct& t) {
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  const SumsLayout at;
  begin_sums<kRowTiles>(nullptr, at);
  const int steps = static_cast<int>(t.steps);
  const int rows_a_step = steps > 0 ? (kTilePanel + steps - 1) / steps : 0;
  const char* next = t.next;
  int row = 0;
  for (int s = 0; s < steps; ++s) {
    multiply_step<kRowTiles, true>(a, b);
    if (t.ahead > 0) {
      for (int line = 0; line < 2 * kTileBytes; line += 64) __builtin_prefetch(b + t.ahead + line);
    }
    for (int64_t line = 0; line < t.next_lines; ++line, next += t.next_stride) {
      for (int64_t i = 0; i < t.next_width; ++i) __builtin_prefetch(next + 64 * i, 0, 2);
    }
    a += kRowTiles * kTileBytes;
    b += 2 * kTileBytes;
    // Spread out, so that the stores of one block drain while the next is multiplied.
    if (t.finish) finish_tile_rows(*t.finish, row, row + rows_a_step);
    if (t.coming) fetch_tile_rows(*t.coming, row, row + rows_a_step);
    row += rows_a_step;
  }
  if (t.finish && row < kTilePanel) finish_tile_rows(*t.finish, row, kTilePanel);
  store_sums<kRowTiles>(t.sums, at);
}

template <int kRowTiles>
inline void multiply_in_cache(const char* a, const char* b, int64_t steps, float* sums, int64_t stride, bool add) {
  const SumsLayout at(stride);
  begin_sums<kRowTiles>(add ? sums : nullptr, at);
  for (int64_t s = 0; s < steps; ++s, a += kRowTiles * kTileBytes, b += 2 * kTileBytes) multiply_step<kRowTiles, false>(a, b);
  store_sums<kRowTiles>(sums, at);
}

void multiply_grid(const rlhi::ops::TileGrid& t) {
  for (int i = 0; i * kTilePanel < t.rows; ++i) {
    const char* a = static_cast<const char*>(t.a) + i * t.a_panel;
    for (int j = 0; j * kTilePanel < t.cols; ++j) {
      const char* b = static_cast<const char*>(t.b) + j * t.b_panel;
      float* sums = t.sums + i * kTilePanel * t.sums_stride + j * kTilePanel;
      if (t.a_rows - i * kTilePanel > kTileEdge) multiply_in_cache<2>(a, b, t.steps, sums, t.sums_stride, t.add);
      else multiply_in_cache<1>(a, b, t.steps, sums, t.sums_stride, t.add);
    }
  }
}

void multiply_block(const rlhi::ops::TileProduct& t) {
  if (t.row_tiles == 2) multiply_tiles<2>(t);
  else multiply_tiles<1>(t);
}

// Calls f(0), ... f(kCount - 1) with constants: a tile is named by one.
template <int kCount, class F>
inline void for_tiles(const F& f) {
  if constexpr (kCount > 1) for_tiles<kCount - 1>(f);
  f(std::integral_constant<int, kCount - 1>());
}

// Four sums at most, none of which waits for another: a product of two steps is over before the first sum could be used.
template <int kTiles, class LoadAndMultiply>
inline void multiply_strip(const rlhi::ops::TileStrip& t, int64_t tile_floats, const LoadAndMultiply& step) {
  const int64_t row_bytes = t.sums_stride * static_cast<int64_t>(sizeof(float));
  tiles_see_memory();
  for_tiles<kTiles>([&](auto i) {
    if (t.add) tile_load<i>(t.sums + i * tile_floats, row_bytes);
    else tile_zero<i>();
  });
  for (int64_t s = 0; s < t.steps; ++s) step(s);
  for_tiles<kTiles>([&](auto i) { tile_store<i>(t.sums + i * tile_floats, row_bytes); });
}

template <int kTiles>
void multiply_tall_tiles(const rlhi::ops::TileStrip& t) {
  const char *a = static_cast<const char*>(t.a), *b = static_cast<const char*>(t.b);
  multiply_strip<kTiles>(t, kTileEdge * t.sums_stride, [&](int64_t s) {
    tile_load<7>(b + s * 2 * kTileBytes);
    for_tiles<kTiles>([&](auto i) {
      constexpr int kA = 4 + i % 3;
      tile_load_once<kA>(a + i * kTileEdge * t.a_stride + s * 64, t.a_stride);
      tile_multiply<i, kA, 7>();
    });
  });
}

template <int kTiles>
void multiply_wide_tiles(const rlhi::ops::TileStrip& t) {
  const char *a = static_cast<const char*>(t.a), *b = static_cast<const char*>(t.b);
  multiply_strip<kTiles>(t, kTileEdge, [&](int64_t s) {
    tile_load<7>(a + s * kTileBytes);
    for_tiles<kTiles>([&](auto i) {
      constexpr int kB = 4 + i % 3;
      tile_load<kB>(b + i / 2 * t.b_panel + (s * 2 + i % 2) * kTileBytes);
      tile_multiply<i, 7, kB>();
    });
  });
}

void multiply_tall(const rlhi::ops::TileStrip& t) {
  switch (t.tiles) {
    case 1: return multiply_tall_tiles<1>(t);
    case 2: return multiply_tall_tiles<2>(t);
    case 3: return multiply_tall_tiles<3>(t);
    default: return multiply_tall_tiles<4>(t);
  }
}
void multiply_wide(const rlhi::ops::TileStrip& t) {
  switch (t.tiles) {
    case 1: return multiply_wide_tiles<1>(t);
    case 2: return multiply_wide_tiles<2>(t);
    case 3: return multiply_wide_tiles<3>(t);
    default: return multiply_wide_tiles<4>(t);
  }
}

void finish_block(const rlhi::ops::TileFinish& f) { finish_tile_rows(f, 0, kTilePanel); }

// Eight factors of random numbers near 1 (a processor slows down with the bits that flip), four sums that do not wait for one another.
double tile_peak_loop(int64_t steps, double* flops) {
  alignas(64) bf16 factor[kTileHalves];
  uint32_t state = 1;
  for (bf16& value : factor) {
    state = state * 1664525u + 1013904223u;
    value.bits = static_cast<uint16_t>(0x3f00u | (state >> 16 & 0x80ffu));
  }
  alignas(64) float sums[kTileEdge * kTileEdge];
  tiles_begin();
  tiles_see_memory();
  tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  tile_load<4>(factor), tile_load<5>(factor), tile_load<6>(factor), tile_load<7>(factor);
  for (int64_t s = 0; s < steps; ++s) {
    tile_multiply<0, 4, 6>();
    tile_multiply<1, 4, 7>();
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
  }
  tile_store<0>(sums, 64);
  tiles_end();
  *flops = 4.0 * 2 * kTileEdge * kTileEdge * kTileStep * static_cast<double>(steps);
  return static_cast<double>(sums[0]);
}

constexpr rlhi::ops::TileKernels make_tile_kernels() {
  rlhi::ops::TileKernels k = {};
  // Server processors have AMX: their third cache is slow and shared, and a line that is written has to be read from there first.
  k.stream_bytes = int64_t{256} << 10;
  k.begin = tiles_begin;
  k.end = tiles_end;
  k.pack_rows = pack_tile_rows;
  k.pack_columns = pack_tile_columns;
  k.multiply = multiply_block;
  k.multiply_grid = multiply_grid;
  k.multiply_tall = multiply_tall;
  k.multiply_wide = multiply_wide;
  k.finish = finish_block;
  k.combine_exponentials = combine_exponentials;
  k.attention_softmax = attention_softmax_factors;
  k.attention_softmax_backward = attention_softmax_backward_factors;
  k.peak_loop = tile_peak_loop;
  return k;
}

}  // namespace
