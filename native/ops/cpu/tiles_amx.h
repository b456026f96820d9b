// The tile layer on AMX: eight registers of 16 rows of 64 bytes, each named by a constant.
// Names as in tiles_plain.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "base/sanitizers.h"

namespace {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void tiles_begin() {
  const TileShapes shapes;
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}
inline void tiles_end() { asm volatile("tilerelease" ::: "memory"); }

// Memory written before this is there for the tile loads after it.
inline void tiles_see_memory() { asm volatile("" ::: "memory"); }

inline void tile_reads(const void* p, int64_t stride) {
  for (int i = 0; i < 16; ++i) rlhi::sanitizer::reads(static_cast<const char*>(p) + i * stride, 64);
}
inline void tile_writes(void* p, int64_t stride) {
  for (int i = 0; i < 16; ++i) rlhi::sanitizer::writes(static_cast<char*>(p) + i * stride, 64);
}

template <int kTile>
inline void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(kTile)); }
template <int kTile>
inline void tile_load(const void* p, int64_t stride = 64) {
  tile_reads(p, stride);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile));
}
// Of what is read once: leaves the first cache to the other factor.
template <int kTile>
inline void tile_load_once(const void* p, int64_t stride = 64) {
  tile_reads(p, stride);
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile));
}
template <int kTile>
inline void tile_store(void* p, int64_t stride) {
  tile_writes(p, stride);
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kSums, int kA, int kB>
inline void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
}

}  // namespace
