// The vector layer on AVX2 and FMA: eight floats. Names as in vector_portable.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "base/sanitizers.h"

namespace {

struct V {
  __m256 x;
};
constexpr int kWidth = 8;
constexpr int kTileRows = 6, kTileVectors = 2, kSumBlock = 256;

inline V vset(float f) { return {_mm256_set1_ps(f)}; }
inline V vzero() { return {_mm256_setzero_ps()}; }
inline V operator+(V a, V b) { return {_mm256_add_ps(a.x, b.x)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.x, b.x)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.x, b.x)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.x, b.x)}; }
inline V vfma(V a, V b, V c) { return {_mm256_fmadd_ps(a.x, b.x, c.x)}; }
inline V vmax(V a, V b) { return {_mm256_max_ps(a.x, b.x)}; }
inline V vmin(V a, V b) { return {_mm256_min_ps(a.x, b.x)}; }
inline V vselect_less(V a, V b, V yes, V no) { return {_mm256_blendv_ps(no.x, yes.x, _mm256_cmp_ps(a.x, b.x, _CMP_LT_OQ))}; }
inline V vsqrt(V a) { return {_mm256_sqrt_ps(a.x)}; }
inline V vreciprocal(V a) { return vset(1.0f) / a; }
inline V vround(V a) { return {_mm256_round_ps(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// In two steps, so that neither factor leaves the range of floats.
inline V vscale2(V a, V n) {
  const __m256i i = _mm256_cvtps_epi32(n.x), half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half),
      bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23), second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))};
}
inline float vsum(V a) {
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(a.x), _mm256_extractf128_ps(a.x, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float vmaximum(V a) {
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(a.x), _mm256_extractf128_ps(a.x, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

// Sums in double of what each lane was given.
struct Wide {
  __m256d low, high;
};
inline Wide wload(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline void wstore(double* p, Wide w) { _mm256_storeu_pd(p, w.low), _mm256_storeu_pd(p + 4, w.high); }
inline Wide wadd(Wide w, V a) {
  return {_mm256_add_pd(w.low, _mm256_cvtps_pd(_mm256_castps256_ps128(a.x))),
          _mm256_add_pd(w.high, _mm256_cvtps_pd(_mm256_extractf128_ps(a.x, 1)))};
}

inline V vload(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void vstore(float* p, V v) { _mm256_storeu_ps(p, v.x); }
inline __m256i first_lanes(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
inline V vload_n(const float* p, int n) {
  rlhi::sanitizer::reads(p, static_cast<size_t>(n) * 4);
  return {_mm256_maskload_ps(p, first_lanes(n))};
}
inline void vstore_n(float* p, V v, int n) {
  rlhi::sanitizer::writes(p, static_cast<size_t>(n) * 4);
  _mm256_maskstore_ps(p, first_lanes(n), v.x);
}

inline V vload(const rlhi::bf16* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
}
// The low halves of eight 32-bit words below 65536.
inline __m128i low_halves(__m256i u) {
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(u, u), 0x08));
}
// Round to nearest, ties to even; NaN stays NaN.
inline void vstore(rlhi::bf16* p, V v) {
  const __m256i u = _mm256_castps_si256(v.x), upper = _mm256_srli_epi32(u, 16);
  const __m256i bias = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16), quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v.x, v.x, _CMP_UNORD_Q));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low_halves(_mm256_blendv_epi8(rounded, quiet, nan)));
}
inline V vload_n(const rlhi::bf16* p, int n) {
  rlhi::bf16 all[kWidth] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return vload(all);
}
inline void vstore_n(rlhi::bf16* p, V v, int n) {
  rlhi::bf16 all[kWidth];
  vstore(all, v);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}

inline V vload_master(const rlhi::bf16* weight, const int16_t* remainder) {
  const __m256i high = _mm256_castps_si256(vload(weight).x);
  const __m256i low = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(remainder)));
  return {_mm256_castsi256_ps(_mm256_add_epi32(high, low))};
}
inline void vstore_master(rlhi::bf16* weight, int16_t* remainder, V v) {
  const __m256i u = _mm256_castps_si256(v.x);
  const __m256i high = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x8000)), 16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(weight), low_halves(high));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(remainder), low_halves(_mm256_and_si256(u, _mm256_set1_epi32(0xffff))));  // u - (high << 16)
}

inline V vhash_bits(uint32_t first, uint32_t step) {
  const __m256i lanes = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(step)));
  __m256i x = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), lanes);
  x = _mm256_mullo_epi32(_mm256_xor_si256(x, _mm256_srli_epi32(x, 16)), _mm256_set1_epi32(0x7feb352d));
  x = _mm256_mullo_epi32(_mm256_xor_si256(x, _mm256_srli_epi32(x, 15)), _mm256_set1_epi32(static_cast<int>(0x846ca68bu)));
  return {_mm256_castsi256_ps(_mm256_xor_si256(x, _mm256_srli_epi32(x, 16)))};
}
inline V vlower_halves(V bits) { return {_mm256_and_ps(bits.x, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff)))}; }
inline V vupper_halves(V bits) { return {_mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(bits.x), 16))}; }
inline V vround_up_at_random(V v, V random) {
  const __m256i sum = _mm256_add_epi32(_mm256_castps_si256(v.x), _mm256_castps_si256(random.x));
  return {_mm256_castsi256_ps(_mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}

inline V vfrom_bits(V bits) { return {_mm256_cvtepi32_ps(_mm256_castps_si256(bits.x))}; }
inline V vload(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline void vstore(uint8_t* p, V v) {
  const __m128i halves = low_halves(_mm256_cvtps_epi32(v.x));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
}
inline V vload_n(const uint8_t* p, int n) {
  uint8_t all[kWidth] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return vload(all);
}
inline void vstore_n(uint8_t* p, V v, int n) {
  uint8_t all[kWidth];
  vstore(all, v);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}
inline V vlookup(const float* table, V index) { return {_mm256_i32gather_ps(table, _mm256_cvtps_epi32(index.x), 4)}; }

// 8 x 8: pairs, fours, then 128-bit halves.
inline void vtranspose(V (&r)[kWidth]) {
  __m256 t[8], s[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i].x, r[i + 1].x);
    t[i + 1] = _mm256_unpackhi_ps(r[i].x, r[i + 1].x);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    s[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    s[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    s[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    s[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i].x = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
    r[i + 4].x = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
  }
}

}  // namespace
