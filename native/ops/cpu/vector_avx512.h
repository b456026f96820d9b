// The vector layer on AVX-512 F, BW, VL and DQ: sixteen floats, and masks for the ends of rows.
// Names as in vector_portable.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"

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
inline V vload_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void vstore_n(float* p, V v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v.x); }

inline V widen(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, _mm512_maskz_cvtepu16_epi32(kAllLanes, halves), 16))};
}
// Round to nearest, ties to even; NaN stays NaN.
inline __m256i narrow(V v) {
  const __m512i u = _mm512_castps_si512(v.x), one = _mm512_set1_epi32(1);
  const __m512i upper = _mm512_maskz_srli_epi32(kAllLanes, u, 16);
  const __m512i bias = _mm512_add_epi32(_mm512_and_si512(upper, one), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_maskz_srli_epi32(kAllLanes, _mm512_add_epi32(u, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v.x, v.x, _CMP_UNORD_Q);
  return _mm512_maskz_cvtepi32_epi16(kAllLanes, _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
inline V vload(const rlhi::bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void vstore(rlhi::bf16* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v)); }
inline V vload_n(const rlhi::bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline void vstore_n(rlhi::bf16* p, V v, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(v)); }

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

}  // namespace
