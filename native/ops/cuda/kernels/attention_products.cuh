// Tiles of bf16 rows in shared memory, and the two products of attention on them: scores (rows times rows) and sums weighted by
// scores. One interface, two forms: a warp's mma.sync with ldmatrix, and a warpgroup's wgmma (sm_90a).
//
// A tile of R rows and D columns lies in panels of 64 columns: panel c is R rows of 128 bytes from c * R * 128. Within a row
// the 16-byte units are exchanged by the row's number modulo 8 (wgmma's 128-byte swizzle, which also keeps ldmatrix free of
// bank conflicts). Panels begin at multiples of 1024 bytes. With D = 96 the second panel is half used.
//
// Fragments: 128 threads hold a [64, 8 n] matrix as float[n][4]; warp w has rows 16 w to 16 w + 15, and lane l elements
// (l/4, 2(l%4)), (l/4, 2(l%4)+1), (l/4+8, ..), (l/4+8, ..) of each 8 columns.
#pragma once
#include "ops/cuda/kernels/device.cuh"

namespace rlhi::ops::cuda {

constexpr int kGroupRows = 64;       // rows of a warpgroup
constexpr int kGroupThreads = 128;

constexpr int panels_of(int d) { return (d + 63) / 64; }
constexpr int tile_bytes(int rows, int d) { return panels_of(d) * rows * 128; }

// 16-byte unit `unit` of row `row`
template <int kRows>
RLHI_DEVICE unsigned char* tile_unit(unsigned char* tile, int row, int unit) {
  return tile + (unit / 8) * (kRows * 128) + row * 128 + (((unit % 8) ^ (row % 8)) << 4);
}

// Begins copying rows [0, n) of `from` (stride in elements) to the tile, kAtOnce copies a thread in a turn of the loop: their addresses
// take registers. Rows from n to kRows become zero.
template <int kRows, int kD, int kThreads, int kAtOnce = 8>
RLHI_DEVICE void load_tile(unsigned char* tile, const void* from, int64_t stride, int n) {
  constexpr unsigned kUnits = kD / 8, kPasses = kRows * kUnits / kThreads;
  static_assert(kRows * kUnits % kThreads == 0);
  const unsigned thread = static_cast<unsigned>(thread_index()) % kThreads, row_units = static_cast<unsigned>(stride / 8);
  const char* const source = static_cast<const char*>(from);
  if constexpr (kThreads % (8 * kUnits) == 0) {  // a thread's rows are a multiple of 8 apart, so its place in a row stays
    const unsigned row = thread / kUnits, unit = thread % kUnits;
    unsigned char* const to = tile_unit<kRows>(tile, static_cast<int>(row), static_cast<int>(unit));
    RLHI_UNROLL_BY(kAtOnce)
    for (unsigned i = 0; i < kPasses; ++i) {
      const unsigned r = row + i * (kThreads / kUnits);
      copy_async(to + i * (kThreads / kUnits) * 128, source + static_cast<uint64_t>(r * row_units + unit) * 16,
                 r < static_cast<unsigned>(n));
    }
  } else {
    RLHI_UNROLL_BY(kAtOnce)
    for (unsigned i = 0; i < kPasses; ++i) {
      const unsigned at = i * kThreads + thread, row = at / kUnits, unit = at % kUnits;
      copy_async(tile_unit<kRows>(tile, static_cast<int>(row), static_cast<int>(unit)),
                 source + static_cast<uint64_t>(row * row_units + unit) * 16, row < static_cast<unsigned>(n));
    }
  }
}

// Row `row` of a bf16 tensor, from column `column`.
RLHI_DEVICE const void* bf16_row(const void* data, int64_t stride, int64_t row, int64_t column) {
  return static_cast<const uint16_t*>(data) + row * stride + column;
}

// Columns of scores packed as the left factor of a product over 16 of them.
template <int kFragments>
RLHI_DEVICE void pack_scores(uint32_t (&a)[4], const float (&s)[kFragments][4], int step) {
  a[0] = pack_bf16(s[2 * step][0], s[2 * step][1]);
  a[1] = pack_bf16(s[2 * step][2], s[2 * step][3]);
  a[2] = pack_bf16(s[2 * step + 1][0], s[2 * step + 1][1]);
  a[3] = pack_bf16(s[2 * step + 1][2], s[2 * step + 1][3]);
}

template <bool kGroupForm>
struct Products;

// A warp by itself.
template <>
struct Products<false> {
  // Columns of scores that a warp has registers for beside two sums of kD columns.
  template <int kD>
  static constexpr int kColumnsBesideTwoSums = kD > 64 ? 32 : 64;
  // d[64, 8 kFragments] = a rows [a_row, a_row + 64) times b rows [0, 8 kFragments), over kD columns.
  template <int kD, int kRowsA, int kRowsB, int kFragments>
  static RLHI_DEVICE void scores(float (&d)[kFragments][4], unsigned char* a, int a_row, unsigned char* b) {
    // Addresses made once for all steps would not leave the registers that two sums and their scores need.
    warp_scores<kD, kRowsA, kRowsB>(d, a, a_row + thread_index() / 32 % 4 * 16, b, made_anew(thread_index() % 32));
  }
  // This warp's 16 rows of that, from a row of its own; `lane` is the thread's in its warp.
  template <int kD, int kRowsA, int kRowsB, int kFragments>
  static RLHI_DEVICE void warp_scores(float (&d)[kFragments][4], unsigned char* a, int warp_row, unsigned char* b, int lane) {
    RLHI_UNROLL
    for (int n = 0; n < kFragments; ++n) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0;
    RLHI_UNROLL
    for (int k = 0; k < kD / 16; ++k) {
      uint32_t left[4];
      load_matrices(left, tile_unit<kRowsA>(a, warp_row + lane % 16, k * 2 + lane / 16));
      RLHI_UNROLL
      for (int n = 0; n < kFragments; n += 2) {
        uint32_t right[4];
        load_matrices(right, tile_unit<kRowsB>(b, n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
        warp_product(d[n], left, right[0], right[1]);
        warp_product(d[n + 1], left, right[2], right[3]);
      }
    }
  }
  // d[64, 8 kFragments] (+)= s[64, 16 kSteps] times b's rows [0, 16 kSteps), columns from 64 panel + 8 first. s as packed by pack_scores.
  template <int kRowsB, int kFragments, int kSteps>
  static RLHI_DEVICE void weighted(float (&d)[kFragments][4], const uint32_t (&s)[kSteps][4], unsigned char* b, int panel, bool accumulate,
                                   int first = 0) {
    const int lane = thread_index() % 32;
    if (!accumulate) {
      RLHI_UNROLL
      for (int n = 0; n < kFragments; ++n) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0;
    }
    RLHI_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      RLHI_UNROLL
      for (int n = 0; n < kFragments; n += 2) {
        uint32_t right[4];
        load_matrices_transposed(right, tile_unit<kRowsB>(b, k * 16 + lane % 16, panel * 8 + first + n + lane / 16));
        warp_product(d[n], s[k], right[0], right[1]);
        warp_product(d[n + 1], s[k], right[2], right[3]);
      }
    }
  }
  // d[64, 8 kFragments] += a's rows [0, 64) times b's rows from b_row, over one panel's 64 columns.
  template <int kRowsA, int kRowsB, int kFragments>
  static RLHI_DEVICE void add_rows(float (&d)[kFragments][4], unsigned char* a, unsigned char* b, int b_row) {
    const int lane = thread_index() % 32, warp_row = thread_index() / 32 % 4 * 16;
    RLHI_UNROLL
    for (int k = 0; k < 4; ++k) {
      uint32_t left[4];
      load_matrices(left, tile_unit<kRowsA>(a, warp_row + lane % 16, k * 2 + lane / 16));
      RLHI_UNROLL
      for (int n = 0; n < kFragments; n += 2) {
        uint32_t right[4];
        load_matrices(right, tile_unit<kRowsB>(b, b_row + n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
        warp_product(d[n], left, right[0], right[1]);
        warp_product(d[n + 1], left, right[2], right[3]);
      }
    }
  }
  template <int kFragments>
  static RLHI_DEVICE void begin(float (&)[kFragments][4]) {}
  static RLHI_DEVICE void commit() {}
  template <int kKeep>
  static RLHI_DEVICE void wait() {}
  template <int kFragments>
  static RLHI_DEVICE void end(float (&)[kFragments][4]) {}
  static RLHI_DEVICE void loaded() {}
};

#if RLHI_HAS_GROUP_PRODUCTS
// A warpgroup: products are asynchronous between begin(accumulators) ... commit() and wait<k>(), which leaves the newest k
// commits running, ... end(accumulators).
template <>
struct Products<true> {
  template <int kD>
  static constexpr int kColumnsBesideTwoSums = 64;
  // The changing half of a matrix descriptor: where it begins, in units of 16 bytes, and a stride that is not used. The other
  // half says 128-byte swizzle, and groups of eight rows 1024 bytes apart. (PTX ISA, "Matrix descriptor".)
  static RLHI_DEVICE uint32_t begin_of(const unsigned char* p) {
    return warp_uniform((shared_address(p) & 0x3ffff) >> 4 | (1024 >> 4) << 16);
  }
  static RLHI_DEVICE uint64_t descriptor(uint32_t begin) { return uint64_t{0x40000000 | 1024 >> 4} << 32 | begin; }
  // d[64, 8 kFragments] = a rows [a_row, a_row + 64) times b rows [0, 8 kFragments), over kD columns.
  template <int kD, int kRowsA, int kRowsB, int kFragments>
  static RLHI_DEVICE void scores(float (&d)[kFragments][4], unsigned char* a, int a_row, unsigned char* b) {
    const uint32_t a_begin = begin_of(a + a_row * 128), b_begin = begin_of(b);
    RLHI_UNROLL
    for (int k = 0; k < kD / 16; ++k) {
      const uint32_t panel = static_cast<uint32_t>(k / 4), column = static_cast<uint32_t>(k % 4 * 2);
      group_product<false>(d, descriptor(a_begin + panel * (kRowsA * 8) + column), descriptor(b_begin + panel * (kRowsB * 8) + column),
                           k > 0);
    }
  }
  // The same with a's rows in registers: left[k] has this thread's part of their columns [16 k, 16 k + 16).
  template <int kRowsB, int kFragments, int kSteps>
  static RLHI_DEVICE void scores(float (&d)[kFragments][4], const uint32_t (&left)[kSteps][4], unsigned char* b) {
    const uint32_t b_begin = begin_of(b);
    RLHI_UNROLL
    for (int k = 0; k < kSteps; ++k)
      group_product<false>(d, left[k], descriptor(b_begin + static_cast<uint32_t>(k / 4 * (kRowsB * 8) + k % 4 * 2)), k > 0);
  }
  template <int kRowsB, int kFragments>
  static RLHI_DEVICE void weighted(float (&d)[kFragments][4], const uint32_t (&s)[4][4], unsigned char* b, int panel,
                                   bool accumulate) {
    const uint32_t b_begin = begin_of(b);
    RLHI_UNROLL
    for (int k = 0; k < 4; ++k) {
      group_product<true>(d, s[k], descriptor(b_begin + static_cast<uint32_t>(panel * (kRowsB * 8) + k * 16 * 8)), accumulate || k > 0);
    }
  }
  template <int kRowsA, int kRowsB, int kFragments>
  static RLHI_DEVICE void add_rows(float (&d)[kFragments][4], unsigned char* a, unsigned char* b, int b_row) {
    const uint32_t a_begin = begin_of(a), b_begin = begin_of(b + b_row * 128);
    RLHI_UNROLL
    for (uint32_t k = 0; k < 4; ++k) group_product<false>(d, descriptor(a_begin + 2 * k), descriptor(b_begin + 2 * k), true);
  }
  template <int kFragments>
  static RLHI_DEVICE void begin(float (&d)[kFragments][4]) {
    group_fence(d);
    group_fence();
  }
  static RLHI_DEVICE void commit() { group_commit(); }
  template <int kKeep>
  static RLHI_DEVICE void wait() {
    group_wait<kKeep>();
  }
  template <int kFragments>
  static RLHI_DEVICE void end(float (&d)[kFragments][4]) {
    group_fence(d);
  }
  // After a thread's copies have arrived, before the barrier that shows them to others.
  static RLHI_DEVICE void loaded() { shared_fence(); }
};
#endif

// f(form) with form::value: whether kernels are compiled for a warpgroup's products. nvcc compiles each kernel once an
// architecture, with the products the architecture has; elsewhere both forms are there.
template <bool kGroupForm>
struct ProductForm {
  static constexpr bool value = kGroupForm;
};
template <class F>
void with_product_form(const F& f) {
#ifndef __CUDACC__
  if (emulate::options.group_products) return f(ProductForm<true>());
#endif
  f(ProductForm<false>());
}

// Fragments of a panel of kD columns.
template <int kD, int kPanel>
constexpr int kPanelFragments = kD / 8 - kPanel * 8 < 8 ? kD / 8 - kPanel * 8 : 8;
template <int kFragments, int kAll>
RLHI_DEVICE float (&fragments_at(float (&all)[kAll][4], int first))[kFragments][4] {
  return reinterpret_cast<float(&)[kFragments][4]>(all[first]);
}
// f(panel) for each panel of kD columns, with the panel as a constant.
template <int kPanel>
struct Panel {
  static constexpr int value = kPanel;
};
template <int kD, class F>
RLHI_DEVICE void for_panels(const F& f) {
  f(Panel<0>());
  if constexpr (kD > 64) f(Panel<1>());
}

}  // namespace rlhi::ops::cuda
