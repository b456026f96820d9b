// The vector layer on AVX-512 F, BW, VL and DQ: sixteen floats, and masks for the ends of rows.
// Names as in vector_portable.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"
#include "base/sanitizers.h"

namespace {

struct V {
  __m512 x;
};
constexpr int kWidth = 16;
constexpr int kTileRows = 14, kTileVectors = 2, kSumBlock = 256;

inline V vset(float f) { return {_mm512_set1_ps(f)}; }
inline V vzero() { return {_mm512_setzero_ps()}; }
inline V operator+(V a, V b) { return {_mm512_add_ps(a.x, b.x)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.x, b.x)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.x, b.x)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.x, b.x)}; }
inline V vfma(V a, V b, V c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
constexpr __mmask16 kAllLanes = 0xffff;  // masked forms where the plain intrinsics of GCC 12 warn about their own pass-through
inline V vmax(V a, V b) { return {_mm512_maskz_max_ps(kAllLanes, a.x, b.x)}; }
inline V vmin(V a, V b) { return {_mm512_maskz_min_ps(kAllLanes, a.x, b.x)}; }
inline V vselect_less(V a, V b, V yes, V no) { return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.x, b.x, _CMP_LT_OQ), no.x, yes.x)}; }
inline V vsqrt(V a) { return {_mm512_maskz_sqrt_ps(kAllLanes, a.x)}; }
// 1 / a to 1 ulp for |a| in [2^-126, 2^126]: an estimate of 14 bits and a Newton step; a division takes three times as long.
inline V vreciprocal(V a) {
  const __m512 r = _mm512_maskz_rcp14_ps(kAllLanes, a.x);
  return {_mm512_fmadd_ps(r, _mm512_fnmadd_ps(a.x, r, _mm512_set1_ps(1.0f)), r)};
}
inline V vround(V a) { return {_mm512_maskz_roundscale_ps(kAllLanes, a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline V vscale2(V a, V n) { return {_mm512_maskz_scalef_ps(kAllLanes, a.x, n.x)}; }

inline __m256 lower_half(V a) { return _mm512_maskz_extractf32x8_ps(0xff, a.x, 0); }
inline __m256 upper_half(V a) { return _mm512_maskz_extractf32x8_ps(0xff, a.x, 1); }
inline float vsum(V a) {
  const __m256 s8 = _mm256_add_ps(lower_half(a), upper_half(a));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float vmaximum(V a) {
  const __m256 s8 = _mm256_max_ps(lower_half(a), upper_half(a));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

struct Wide {
  __m512d low, high;
};
inline Wide wload(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
inline void wstore(double* p, Wide w) { _mm512_storeu_pd(p, w.low), _mm512_storeu_pd(p + 8, w.high); }
inline Wide wadd(Wide w, V a) {
  return {_mm512_add_pd(w.low, _mm512_maskz_cvtps_pd(0xff, lower_half(a))), _mm512_add_pd(w.high, _mm512_maskz_cvtps_pd(0xff, upper_half(a)))};
}

inline V vload(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void vstore(float* p, V v) { _mm512_storeu_ps(p, v.x); }
inline V vload_n(const float* p, int n) {
  rlhi::sanitizer::reads(p, static_cast<size_t>(n) * 4);
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
inline void vstore_n(float* p, V v, int n) {
  rlhi::sanitizer::writes(p, static_cast<size_t>(n) * 4);
  _mm512_mask_storeu_ps(p, first_lanes(n), v.x);
}

inline V widen(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, _mm512_maskz_cvtepu16_epi32(kAllLanes, halves), 16))};
}
// To bf16 in the low halves of the lanes: to nearest, ties to even; NaN stays NaN.
inline __m512i round_to_halves(V v) {
  const __m512i u = _mm512_castps_si512(v.x), one = _mm512_set1_epi32(1);
  const __m512i upper = _mm512_maskz_srli_epi32(kAllLanes, u, 16);
  const __m512i bias = _mm512_add_epi32(_mm512_and_si512(upper, one), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_maskz_srli_epi32(kAllLanes, _mm512_add_epi32(u, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v.x, v.x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
}
inline V halves_pair(V low, V high);
#if defined(__AVX512BF16__)  // one instruction, for which denormals are zero
inline __m256i narrow(V v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v.x)); }
inline __m512i narrow(V low, V high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.x, low.x)); }
// Each lane: low's, then high's as bf16.
inline V round_pair(V low, V high) {
  const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                         17, 1, 16, 0);
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xffffffffu, turns, narrow(low, high)))};
}
#else
inline __m256i narrow(V v) { return _mm512_maskz_cvtepi32_epi16(kAllLanes, round_to_halves(v)); }
inline __m512i narrow(V low, V high) {
  const __m512i lower_halves = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24, 22, 20, 18,
                                                16, 14, 12, 10, 8, 6, 4, 2, 0);
  return _mm512_permutex2var_epi16(round_to_halves(low), lower_halves, round_to_halves(high));
}
inline V round_pair(V low, V high) {
  return halves_pair({_mm512_castsi512_ps(round_to_halves(low))}, {_mm512_castsi512_ps(round_to_halves(high))});
}
#endif
inline V vload(const rlhi::bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void vstore(rlhi::bf16* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v)); }
inline V vload_n(const rlhi::bf16* p, int n) {
  rlhi::sanitizer::reads(p, static_cast<size_t>(n) * 2);
  return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline void vstore_n(rlhi::bf16* p, V v, int n) {
  rlhi::sanitizer::writes(p, static_cast<size_t>(n) * 2);
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(v));
}

// Past the caches, to a 64-byte aligned place.
inline void vstream(float* p, V low, V high) {
  rlhi::sanitizer::writes(p, 128);
  _mm512_stream_ps(p, low.x), _mm512_stream_ps(p + 16, high.x);
}
inline void vstream(rlhi::bf16* p, V low, V high) {
  rlhi::sanitizer::writes(p, 64);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), narrow(low, high));
}
// Bits of bf16 values in the low halves of the lanes; and two such vectors side by side, `low` first in memory.
inline V halves_load(const rlhi::bf16* p) {
  return {_mm512_castsi512_ps(_mm512_maskz_cvtepu16_epi32(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))))};
}
inline V halves_pair(V low, V high) {
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(low.x), _mm512_maskz_slli_epi32(kAllLanes, _mm512_castps_si512(high.x), 16)))};
}

inline V vload_master(const rlhi::bf16* weight, const int16_t* remainder) {
  const __m512i high = _mm512_castps_si512(vload(weight).x);
  const __m512i low = _mm512_maskz_cvtepi16_epi32(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(remainder)));
  return {_mm512_castsi512_ps(_mm512_add_epi32(high, low))};
}
inline void vstore_master(rlhi::bf16* weight, int16_t* remainder, V v) {
  const __m512i u = _mm512_castps_si512(v.x);
  const __m512i high = _mm512_maskz_srli_epi32(kAllLanes, _mm512_add_epi32(u, _mm512_set1_epi32(0x8000)), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(weight), _mm512_maskz_cvtepi32_epi16(kAllLanes, high));
  // u - (high << 16) is u's low half
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(remainder), _mm512_maskz_cvtepi32_epi16(kAllLanes, u));
}

inline V vhash_bits(uint32_t first, uint32_t step) {
  const __m512i numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i lanes = _mm512_mullo_epi32(numbers, _mm512_set1_epi32(static_cast<int>(step)));
  const auto folded = [](__m512i x, unsigned by) { return _mm512_xor_si512(x, _mm512_maskz_srli_epi32(kAllLanes, x, by)); };
  __m512i x = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lanes);
  x = _mm512_mullo_epi32(folded(x, 16), _mm512_set1_epi32(0x7feb352d));
  x = _mm512_mullo_epi32(folded(x, 15), _mm512_set1_epi32(static_cast<int>(0x846ca68bu)));
  return {_mm512_castsi512_ps(folded(x, 16))};
}
inline V vlower_halves(V bits) { return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(bits.x), _mm512_set1_epi32(0xffff)))}; }
inline V vupper_halves(V bits) { return {_mm512_castsi512_ps(_mm512_maskz_srli_epi32(kAllLanes, _mm512_castps_si512(bits.x), 16))}; }
inline V vround_up_at_random(V v, V random) {
  const __m512i sum = _mm512_add_epi32(_mm512_castps_si512(v.x), _mm512_castps_si512(random.x));
  return {_mm512_castsi512_ps(_mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

inline V vfrom_bits(V bits) { return {_mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_castps_si512(bits.x))}; }
inline V vload(const uint8_t* p) {
  return {_mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_maskz_cvtepu8_epi32(kAllLanes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline void vstore(uint8_t* p, V v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(kAllLanes, _mm512_maskz_cvtps_epi32(kAllLanes, v.x)));
}
inline V vload_n(const uint8_t* p, int n) {
  rlhi::sanitizer::reads(p, static_cast<size_t>(n));
  return {_mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_maskz_cvtepu8_epi32(kAllLanes, _mm_maskz_loadu_epi8(first_lanes(n), p)))};
}
inline void vstore_n(uint8_t* p, V v, int n) {
  rlhi::sanitizer::writes(p, static_cast<size_t>(n));
  _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_maskz_cvtepi32_epi8(kAllLanes, _mm512_maskz_cvtps_epi32(kAllLanes, v.x)));
}
inline V vlookup(const float* table, V index) {
  return {_mm512_mask_i32gather_ps(_mm512_setzero_ps(), kAllLanes, _mm512_maskz_cvtps_epi32(kAllLanes, index.x), table, 4)};
}

// 16 x 16: pairs, fours, then 128-bit blocks twice.
inline void vtranspose(V (&r)[kWidth]) {
  __m512 t[16], s[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_ps(kAllLanes, r[i].x, r[i + 1].x);
    t[i + 1] = _mm512_maskz_unpackhi_ps(kAllLanes, r[i].x, r[i + 1].x);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    s[i] = _mm512_maskz_shuffle_ps(kAllLanes, t[i], t[i + 2], 0x44);
    s[i + 1] = _mm512_maskz_shuffle_ps(kAllLanes, t[i], t[i + 2], 0xee);
    s[i + 2] = _mm512_maskz_shuffle_ps(kAllLanes, t[i + 1], t[i + 3], 0x44);
    s[i + 3] = _mm512_maskz_shuffle_ps(kAllLanes, t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_maskz_shuffle_f32x4(kAllLanes, s[i], s[i + 4], 0x88),
        b = _mm512_maskz_shuffle_f32x4(kAllLanes, s[i], s[i + 4], 0xdd);
    const __m512 c = _mm512_maskz_shuffle_f32x4(kAllLanes, s[i + 8], s[i + 12], 0x88);
    const __m512 d = _mm512_maskz_shuffle_f32x4(kAllLanes, s[i + 8], s[i + 12], 0xdd);
    r[i].x = _mm512_maskz_shuffle_f32x4(kAllLanes, a, c, 0x88);
    r[i + 4].x = _mm512_maskz_shuffle_f32x4(kAllLanes, b, d, 0x88);
    r[i + 8].x = _mm512_maskz_shuffle_f32x4(kAllLanes, a, c, 0xdd);
    r[i + 12].x = _mm512_maskz_shuffle_f32x4(kAllLanes, b, d, 0xdd);
  }
}

// r[l] = column l of the 16 x 16 block of words whose rows begin at p, `stride` bytes apart. Quarter rows are put together as they are loaded, which
// leaves half the shuffles of a transposition in registers.
inline void vload_turned(const void* p, int64_t stride, V (&r)[kWidth]) {
  const auto quarter = [&](int row, int q) { return _mm_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(p) + row * stride) + 4 * q); };
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    __m512 t[4];
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) {
      t[m] = _mm512_zextps128_ps512(quarter(m, q));
      t[m] = _mm512_maskz_insertf32x4(kAllLanes, t[m], quarter(m + 4, q), 1);
      t[m] = _mm512_maskz_insertf32x4(kAllLanes, t[m], quarter(m + 8, q), 2);
      t[m] = _mm512_maskz_insertf32x4(kAllLanes, t[m], quarter(m + 12, q), 3);
    }
    const __m512 a = _mm512_maskz_unpacklo_ps(kAllLanes, t[0], t[1]), b = _mm512_maskz_unpackhi_ps(kAllLanes, t[0], t[1]);
    const __m512 c = _mm512_maskz_unpacklo_ps(kAllLanes, t[2], t[3]), d = _mm512_maskz_unpackhi_ps(kAllLanes, t[2], t[3]);
    r[4 * q].x = _mm512_maskz_shuffle_ps(kAllLanes, a, c, 0x44);
    r[4 * q + 1].x = _mm512_maskz_shuffle_ps(kAllLanes, a, c, 0xee);
    r[4 * q + 2].x = _mm512_maskz_shuffle_ps(kAllLanes, b, d, 0x44);
    r[4 * q + 3].x = _mm512_maskz_shuffle_ps(kAllLanes, b, d, 0xee);
  }
}

}  // namespace
