// The vector layer without any instruction set: four floats as a compiler vector, which every 64-bit processor has
// (SSE2, NEON), with multiply and add as two roundings. It is what the other layers are tested against.
//
// Every layer defines the same names: V, kWidth, and the functions below.
#pragma once
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace {

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));

struct V {
  Floats x;
};
constexpr int kWidth = 4;
constexpr int kTileRows = 4, kTileVectors = 2, kSumBlock = 256;

inline V vset(float f) { return {Floats{f, f, f, f}}; }
inline V vzero() { return vset(0.0f); }
inline V operator+(V a, V b) { return {a.x + b.x}; }
inline V operator-(V a, V b) { return {a.x - b.x}; }
inline V operator*(V a, V b) { return {a.x * b.x}; }
inline V operator/(V a, V b) { return {a.x / b.x}; }
inline V vfma(V a, V b, V c) { return {a.x * b.x + c.x}; }           // a b + c
inline V vmax(V a, V b) { return {a.x > b.x ? a.x : b.x}; }          // b where either is NaN
inline V vmin(V a, V b) { return {a.x < b.x ? a.x : b.x}; }
inline V vselect_less(V a, V b, V yes, V no) { return {a.x < b.x ? yes.x : no.x}; }
inline V vsqrt(V a) {
  V r;
  for (int i = 0; i < kWidth; ++i) r.x[i] = __builtin_sqrtf(a.x[i]);
  return r;
}
// 1 / a for |a| in [2^-126, 2^126].
inline V vreciprocal(V a) { return vset(1.0f) / a; }
// To the nearest integer; |a| < 2^22.
inline V vround(V a) {
  const V magic = vset(12582912.0f);
  return (a + magic) - magic;
}
// a * 2^n for integers n in [-252, 254], in two steps so that neither factor leaves the range of floats.
inline V vscale2(V a, V n) {
  const Ints i = __builtin_convertvector(n.x, Ints);
  const Ints half = i >> 1, rest = i - half;
  const Ints first = (half + 127) << 23, second = (rest + 127) << 23;
  return {a.x * reinterpret_cast<Floats>(first) * reinterpret_cast<Floats>(second)};
}
inline float vsum(V a) { return (a.x[0] + a.x[2]) + (a.x[1] + a.x[3]); }
inline float vmaximum(V a) {
  const float l = a.x[0] > a.x[2] ? a.x[0] : a.x[2], r = a.x[1] > a.x[3] ? a.x[1] : a.x[3];
  return l > r ? l : r;
}

// Sums in double of what each lane was given.
struct Wide {
  double x[kWidth];
};
inline Wide wload(const double* p) {
  Wide w;
  std::memcpy(w.x, p, sizeof w.x);
  return w;
}
inline void wstore(double* p, const Wide& w) { std::memcpy(p, w.x, sizeof w.x); }
inline Wide wadd(Wide w, V a) {
  for (int i = 0; i < kWidth; ++i) w.x[i] += static_cast<double>(a.x[i]);
  return w;
}

inline V vload(const float* p) {
  V v;
  std::memcpy(&v.x, p, sizeof v.x);
  return v;
}
inline void vstore(float* p, V v) { std::memcpy(p, &v.x, sizeof v.x); }
inline V vload(const rlhi::bf16* p) {
  const Bits u = Bits{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16;
  return {reinterpret_cast<Floats>(u)};
}
// Round to nearest, ties to even; NaN stays NaN.
inline Bits round_to_bf16(V v) {
  const Bits u = reinterpret_cast<Bits>(v.x);
  const Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
  return (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}
inline void vstore(rlhi::bf16* p, V v) {
  const Bits u = round_to_bf16(v);
  for (int i = 0; i < kWidth; ++i) p[i].bits = static_cast<uint16_t>(u[i]);
}
// Unsigned integers in the lanes' bits as floats, from bytes and to bytes, and table[index]; all below 2^24.
inline V vfrom_bits(V bits) { return {__builtin_convertvector(reinterpret_cast<Ints>(bits.x), Floats)}; }
inline V vload(const uint8_t* p) { return {Floats{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])}}; }
inline void vstore(uint8_t* p, V v) {
  for (int i = 0; i < kWidth; ++i) p[i] = static_cast<uint8_t>(v.x[i]);
}
inline V vlookup(const float* table, V index) {
  V r;
  for (int i = 0; i < kWidth; ++i) r.x[i] = table[static_cast<int>(index.x[i])];
  return r;
}
// The first n < kWidth elements; the others are zero, or left alone.
template <class T>
inline V vload_n(const T* p, int n) {
  T all[kWidth] = {};
  for (int i = 0; i < n; ++i) all[i] = p[i];
  return vload(all);
}
template <class T>
inline void vstore_n(T* p, V v, int n) {
  T all[kWidth];
  vstore(all, v);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}
// Two vectors to an aligned place that nobody reads soon.
template <class T>
inline void vstream(T* p, V low, V high) { vstore(p, low), vstore(p + kWidth, high); }
// Bits of bf16 values in the low halves of the lanes; and two such vectors side by side, `low` first in memory.
inline V halves_load(const rlhi::bf16* p) {
  return {reinterpret_cast<Floats>(Bits{p[0].bits, p[1].bits, p[2].bits, p[3].bits})};
}
inline V halves_pair(V low, V high) {
  return {reinterpret_cast<Floats>(reinterpret_cast<Bits>(low.x) | reinterpret_cast<Bits>(high.x) << 16)};
}
// Each lane: low's, then high's as bf16.
inline V round_pair(V low, V high) { return {reinterpret_cast<Floats>(round_to_bf16(low) | round_to_bf16(high) << 16)}; }

// The split master of base/dtype.h.
inline V vload_master(const rlhi::bf16* weight, const int16_t* remainder) {
  Bits u;
  for (int i = 0; i < kWidth; ++i) {
    u[i] = (static_cast<uint32_t>(weight[i].bits) << 16) + static_cast<uint32_t>(static_cast<int32_t>(remainder[i]));
  }
  return {reinterpret_cast<Floats>(u)};
}
inline void vstore_master(rlhi::bf16* weight, int16_t* remainder, V v) {
  const Bits u = reinterpret_cast<Bits>(v.x);
  const Bits w = (u + 0x8000u) >> 16, r = u - (w << 16);
  for (int i = 0; i < kWidth; ++i) {
    weight[i].bits = static_cast<uint16_t>(w[i]);
    remainder[i] = static_cast<int16_t>(r[i]);
  }
}
// Lane l: rlhi::ops::hash_bits(first + l * step).
inline V vhash_bits(uint32_t first, uint32_t step) {
  Bits x = Bits{first, first + step, first + 2 * step, first + 3 * step};
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return {reinterpret_cast<Floats>(x ^ (x >> 16))};
}
inline V vlower_halves(V bits) { return {reinterpret_cast<Floats>(reinterpret_cast<Bits>(bits.x) & 0xffffu)}; }
inline V vupper_halves(V bits) { return {reinterpret_cast<Floats>(reinterpret_cast<Bits>(bits.x) >> 16)}; }
// The bf16 at or next to v, away from zero where the 16 random bits and v's lower half carry; exact as a float.
inline V vround_up_at_random(V v, V random) {
  const Bits sum = reinterpret_cast<Bits>(v.x) + reinterpret_cast<Bits>(random.x);
  return {reinterpret_cast<Floats>(sum & 0xffff0000u)};
}
// Rows become columns.
inline void vtranspose(V (&r)[kWidth]) {
  const Floats a = __builtin_shuffle(r[0].x, r[1].x, Ints{0, 4, 1, 5}), b = __builtin_shuffle(r[2].x, r[3].x, Ints{0, 4, 1, 5});
  const Floats c = __builtin_shuffle(r[0].x, r[1].x, Ints{2, 6, 3, 7}), d = __builtin_shuffle(r[2].x, r[3].x, Ints{2, 6, 3, 7});
  r[0].x = __builtin_shuffle(a, b, Ints{0, 1, 4, 5});
  r[1].x = __builtin_shuffle(a, b, Ints{2, 3, 6, 7});
  r[2].x = __builtin_shuffle(c, d, Ints{0, 1, 4, 5});
  r[3].x = __builtin_shuffle(c, d, Ints{2, 3, 6, 7});
}

// r[l] = column l of the block of words whose kWidth rows begin at p, `stride` bytes apart.
inline void vload_turned(const void* p, int64_t stride, V (&r)[kWidth]) {
  for (int i = 0; i < kWidth; ++i) std::memcpy(&r[i].x, static_cast<const char*>(p) + i * stride, sizeof r[i].x);
  vtranspose(r);
}

}  // namespace
