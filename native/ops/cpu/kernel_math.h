// Functions every kernel header uses, over any vector layer (include one first).
#pragma once
#include "ops/cpu/kernels.h"

namespace {

using rlhi::bf16;
using rlhi::DType;
using rlhi::ops::kNoScore;

// e^x to about 1 ulp: x = n ln 2 + r, a polynomial of degree 6 in r (minimax in relative error, 4e-9), times 2^n.
// 0 below -87.33, where results would be denormal (hundreds of cycles each, and masked scores are all there); +inf above
// 88.73; NaN stays NaN.
inline V vexp(V x) {
  const V lowest = vset(-87.33f), clamped = vmin(vset(89.0f), vmax(lowest, x));
  const V n = vround(clamped * vset(1.44269504f));
  V r = vfma(n, vset(-0.693359375f), clamped);
  r = vfma(n, vset(2.12194440e-4f), r);
  V p = vset(1.381453252e-3f);
  p = vfma(p, r, vset(8.368745598e-3f));
  p = vfma(p, r, vset(4.166839093e-2f));
  p = vfma(p, r, vset(1.666652039e-1f));
  p = vfma(p, r, vset(4.999999343e-1f));
  p = vfma(p, r * r, r);
  return vselect_less(x, lowest, vzero(), vscale2(p + vset(1.0f), n));
}

// 2^t for t <= 127 to 3e-6, for what is rounded to bf16 afterwards: a polynomial of degree 4 on [-1/2, 1/2] (minimax in relative
// error, 1 at 0). 0 below -126.
constexpr float kLog2E = 1.44269504f;
inline V vexp2_coarse(V t) {
  const V lowest = vset(-126.0f), clamped = vmax(lowest, t);
  const V n = vround(clamped), r = clamped - n;
  V p = vset(9.582852945e-3f);
  p = vfma(p, r, vset(5.590642616e-2f));
  p = vfma(p, r, vset(2.402409911e-1f));
  p = vfma(p, r, vset(6.931241751e-1f));
  return vselect_less(t, lowest, vzero(), vscale2(vfma(p, r, vset(1.0f)), n));
}

// 1 / (1 + e^-x); at least e^-86, so that the denominator stays within vreciprocal; NaN stays NaN.
inline V vsigmoid(V x) { return vreciprocal(vset(1.0f) + vexp(vmin(vset(86.0f), vzero() - x))); }
inline V vsigmoid_coarse(V x) { return vreciprocal(vset(1.0f) + vexp2_coarse(vmin(vset(126.0f), x * vset(-kLog2E)))); }

// As exactly as a T can hold.
template <class T>
inline V vsigmoid_for(V x) {
  if constexpr (sizeof(T) == sizeof(bf16)) return vsigmoid_coarse(x);
  else return vsigmoid(x);
}
// silu(gate) times what `up` is as a T.
template <class T>
inline V vgated(V gate, V up) {
  T rounded[kWidth];
  vstore(rounded, up);
  return gate * vsigmoid_for<T>(gate) * vload(rounded);
}

// The score where a query at p sees a key: where p - window < key <= p, else -inf.
inline V mask_score(V score, V position, V oldest, float key) {  // oldest = position - window
  const V hidden = vset(-__builtin_inff()), k = vset(key);
  return vselect_less(position, k, hidden, vselect_less(oldest, k, score, hidden));
}

// Calls f(offset, count) for every vector of n elements; count is kWidth but in a shorter last one.
// f is called with the constant kWidth, so that after inlining whole vectors have no branch.
template <class F>
inline void for_vectors(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(i, kWidth);
  if (i < n) f(i, static_cast<int>(n - i));
}
template <class T>
inline V load_up_to(const T* p, int n) {
  return n == kWidth ? vload(p) : vload_n(p, n);
}
template <class T>
inline void store_up_to(T* p, V v, int n) {
  if (n == kWidth) vstore(p, v);
  else vstore_n(p, v, n);
}

// Four running sums, so that the additions of a long row do not wait for one another. Which sum an element goes to
// depends on its index alone.
template <class Term>
inline float sum_over(int64_t n, const Term& term) {  // term(offset, count) is zero beyond count
  V s[4] = {vzero(), vzero(), vzero(), vzero()};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    for (int j = 0; j < 4; ++j) s[j] = s[j] + term(i + j * kWidth, kWidth);
  }
  for (int j = 0; i < n; i += kWidth, ++j) s[j] = s[j] + term(i, n - i < kWidth ? static_cast<int>(n - i) : kWidth);
  return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

// Calls f with typed pointers for the dtypes f32 and bf16.
template <class F>
inline void with_type(void* p, DType dtype, const F& f) {
  if (dtype == DType::f32) f(static_cast<float*>(p));
  else f(static_cast<bf16*>(p));
}
template <class F>
inline void with_type(const void* p, DType dtype, const F& f) {
  if (dtype == DType::f32) f(static_cast<const float*>(p));
  else f(static_cast<const bf16*>(p));
}

inline float row_max(const float* x, int64_t n) {
  V m = vset(-__builtin_inff());
  for_vectors(n, [&](int64_t i, int count) {
    if (count == kWidth) m = vmax(m, vload(x + i));
    else for (int j = 0; j < count; ++j) m = vmax(m, vset(x[i + j]));
  });
  return vmaximum(m);
}

}  // namespace
