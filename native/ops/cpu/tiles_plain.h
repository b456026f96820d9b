// The tile layer in plain C++, which is how the kernels over it are tested where there is no AMX.
//
// Every layer defines the same names: eight tiles of 16 rows of 64 bytes, which hold bf16 factors or f32 sums.
#pragma once
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace {

struct PlainTile {
  alignas(64) uint32_t words[16][16];
};
thread_local PlainTile plain_tile[8];

inline void tiles_begin() {}
inline void tiles_end() {}
inline void tiles_see_memory() {}

template <int kTile>
inline void tile_zero() { std::memset(plain_tile[kTile].words, 0, sizeof(PlainTile)); }
template <int kTile>
inline void tile_load(const void* p, int64_t stride = 64) {
  for (int i = 0; i < 16; ++i) std::memcpy(plain_tile[kTile].words[i], static_cast<const char*>(p) + i * stride, 64);
}
template <int kTile>
inline void tile_load_once(const void* p, int64_t stride = 64) { tile_load<kTile>(p, stride); }
template <int kTile>
inline void tile_store(void* p, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(p) + i * stride, plain_tile[kTile].words[i], 64);
}

inline float tile_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

// sums[i][j] += sum over pairs p of a[i][p] b[p][j], the even halves and the odd halves each summed in order by
// multiply-adds, then added together (Intel SDM, TDPBF16PS). Denormals are not flushed here.
template <int kSums, int kA, int kB>
inline void tile_multiply() {
  for (int i = 0; i < 16; ++i) {
    float sum[2][16] = {};
    for (int p = 0; p < 16; ++p) {
      const uint32_t a = plain_tile[kA].words[i][p];
      const double even = static_cast<double>(tile_float(a << 16)), odd = static_cast<double>(tile_float(a & 0xffff0000u));
      for (int j = 0; j < 16; ++j) {
        const uint32_t b = plain_tile[kB].words[p][j];
        sum[0][j] = static_cast<float>(static_cast<double>(sum[0][j]) + even * static_cast<double>(tile_float(b << 16)));
        sum[1][j] = static_cast<float>(static_cast<double>(sum[1][j]) + odd * static_cast<double>(tile_float(b & 0xffff0000u)));
      }
    }
    for (int j = 0; j < 16; ++j) {
      uint32_t& word = plain_tile[kSums].words[i][j];
      const float total = tile_float(word) + (sum[0][j] + sum[1][j]);
      std::memcpy(&word, &total, sizeof total);
    }
  }
}

}  // namespace
