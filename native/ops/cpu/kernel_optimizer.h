// AdamW with decoupled decay, in PyTorch's order of operations (Loshchilov and Hutter, arXiv:1711.05101).
#pragma once
#include "ops/cpu/kernel_math.h"
#include "ops/moment_codes.h"

namespace {

using rlhi::ops::AdamWRange;
using rlhi::ops::AdamWStep;
using rlhi::ops::kGolden;
using rlhi::ops::Moments;

inline V adamw_update(const AdamWStep& s, V weight, V grad, V& m, V& v) {
  const V g = grad * vset(s.grad_scale);
  m = vfma(g - m, vset(s.one_minus_beta1), m);
  v = vfma(g * g, vset(s.one_minus_beta2), v * vset(s.beta2));
  const V denominator = vsqrt(v) * vset(s.inverse_sqrt_correction2) + vset(s.eps);
  return weight * vset(s.decay) - vset(s.step_size) * (m / denominator);
}

inline void adamw_weight(const AdamWStep& step, const AdamWRange& r, int64_t i, int count, V grad, V& m, V& v) {
  if (r.dtype == DType::f32) {
    float* w = static_cast<float*>(r.weight) + i;
    store_up_to(w, adamw_update(step, load_up_to(w, count), grad, m, v), count);
    return;
  }
  bf16* w = static_cast<bf16*>(r.weight) + i;
  int16_t* remainder = r.remainder + i;
  if (count == kWidth) {
    vstore_master(w, remainder, adamw_update(step, vload_master(w, remainder), grad, m, v));
    return;
  }
  bf16 high[kWidth] = {};
  int16_t low[kWidth] = {};
  for (int j = 0; j < count; ++j) high[j] = w[j], low[j] = remainder[j];
  vstore_master(high, low, adamw_update(step, vload_master(high, low), grad, m, v));
  for (int j = 0; j < count; ++j) w[j] = high[j], remainder[j] = low[j];
}

template <class Grad, class Moment>
void adamw_range(const AdamWStep& step, const AdamWRange& r, const Grad* grad, Moment* m, Moment* v) {
  for_vectors(r.n, [&](int64_t i, int count) {
    V mi = load_up_to(m + i, count), vi = load_up_to(v + i, count);
    adamw_weight(step, r, i, count, load_up_to(grad + i, count), mi, vi);
    if constexpr (sizeof(Moment) == sizeof(bf16)) {
      const V random = vhash_bits(r.rounding + static_cast<uint32_t>(i) * kGolden, kGolden);
      mi = vround_up_at_random(mi, vlower_halves(random)), vi = vround_up_at_random(vi, vupper_halves(random));
    }
    store_up_to(m + i, mi, count);
    store_up_to(v + i, vi, count);
  });
}

// ---- moments of 8 bits (ops/moment_codes.h) ----
constexpr rlhi::ops::MomentTable kFirstMoments = rlhi::ops::moment_table(1), kSecondMoments = rlhi::ops::moment_table(2);

// One of the two codes whose values lie around `size`, in [0, 1], of a table whose lowest decade has `parts` parts; random: in [0, 1).
inline V moment_code(const rlhi::ops::MomentTable& table, int parts, int top, V size, V random) {
  V decade = vset(1.0f), count = vset(static_cast<float>(parts << (rlhi::ops::kMomentDecades - 1)));
  float highest = 1.0f;
#pragma GCC unroll 8
  for (int below = 1; below < rlhi::ops::kMomentDecades; ++below) {
    highest *= 10.0f;
    const V limit = vset(1.0f / highest);
    decade = vselect_less(size, limit, vset(highest), decade);
    count = vselect_less(size, limit, vset(static_cast<float>(parts << (rlhi::ops::kMomentDecades - 1 - below))), count);
  }
  // Decades have parts, 2 parts, ... codes from 1 on, so a decade of `count` begins at count - parts + 1.
  const V place = (size * decade - vset(0.1f)) * (count * vset(1.0f / 0.9f)) - vset(0.5f), nearest = vround(place);
  const V below = vselect_less(place, nearest, nearest - vset(1.0f), nearest) + (count - vset(static_cast<float>(parts - 1)));
  const V code = vmin(vset(static_cast<float>(top - 1)), vmax(vzero(), below));
  const V low = vlookup(table.value, code), high = vlookup(table.value, code + vset(1.0f));
  return code + vselect_less(random * (high - low), size - low, vset(1.0f), vzero());
}

inline V first_moment_of(V code) {
  const V top = vset(static_cast<float>(rlhi::ops::kFirstMomentTop));
  const V size = vlookup(kFirstMoments.value, vselect_less(top, code, code - top, code));
  return vselect_less(top, code, vzero() - size, size);
}
inline V first_moment_code(V x, V random) {
  const V code = moment_code(kFirstMoments, 1, rlhi::ops::kFirstMomentTop, vmin(vset(1.0f), vmax(x, vzero() - x)), random);
  // There is no code for -1, nor for -0.
  const V negative = vmin(code, vset(static_cast<float>(rlhi::ops::kFirstMomentTop - 1))) + vset(static_cast<float>(rlhi::ops::kFirstMomentTop));
  return vselect_less(vzero(), code, vselect_less(x, vzero(), negative, code), code);
}
// Of what is above zero never zero: the first moment is divided by its root.
inline V second_moment_code(V x, V random) {
  const V code = moment_code(kSecondMoments, 2, rlhi::ops::kSecondMomentTop, vmin(vset(1.0f), x), random);
  return vselect_less(vzero(), x, vmax(vset(1.0f), code), vzero());
}

inline float inverse_or_zero(float x) { return x > 0.0f ? 1.0f / x : 0.0f; }

template <class Grad>
void adamw_coded_range(const AdamWStep& step, const AdamWRange& r, const Grad* grad) {
  constexpr int kBlock = static_cast<int>(rlhi::ops::kMomentBlock);
  auto *m_codes = static_cast<uint8_t*>(r.m), *v_codes = static_cast<uint8_t*>(r.v);
  alignas(64) float m[kBlock], v[kBlock];
  for (int64_t first = 0; first < r.n; first += kBlock) {
    const int64_t count = r.n - first < kBlock ? r.n - first : kBlock;
    float &m_scale = r.m_scales[first / kBlock], &v_scale = r.v_scales[first / kBlock];
    V m_top = vzero(), v_top = vzero();
    for_vectors(count, [&](int64_t i, int n) {
      V mi = first_moment_of(load_up_to(m_codes + first + i, n)) * vset(m_scale), vi = vlookup(kSecondMoments.value, load_up_to(v_codes + first + i, n)) * vset(v_scale);
      adamw_weight(step, r, first + i, n, load_up_to(grad + first + i, n), mi, vi);
      store_up_to(m + i, mi, n), store_up_to(v + i, vi, n);
      mi = load_up_to(m + i, n), vi = load_up_to(v + i, n);     // lanes beyond the last are zero
      m_top = vmax(m_top, vmax(mi, vzero() - mi)), v_top = vmax(v_top, vi);
    });
    m_scale = vmaximum(m_top), v_scale = vmaximum(v_top);
    const V m_inverse = vset(inverse_or_zero(m_scale)), v_inverse = vset(inverse_or_zero(v_scale));
    for_vectors(count, [&](int64_t i, int n) {
      const V random = vhash_bits(r.rounding + static_cast<uint32_t>(first + i) * kGolden, kGolden), unit = vset(1.0f / 65536.0f);
      store_up_to(m_codes + first + i, first_moment_code(load_up_to(m + i, n) * m_inverse, vfrom_bits(vlower_halves(random)) * unit), n);
      store_up_to(v_codes + first + i, second_moment_code(load_up_to(v + i, n) * v_inverse, vfrom_bits(vupper_halves(random)) * unit), n);
    });
  }
}

void adamw(const AdamWStep& step, const AdamWRange& r) {
  with_type(r.grad, r.grad_dtype, [&](const auto* grad) {
    if (r.moments == Moments::coded) return adamw_coded_range(step, r, grad);
    if (r.moments == Moments::f32) return adamw_range(step, r, grad, static_cast<float*>(r.m), static_cast<float*>(r.v));
    adamw_range(step, r, grad, static_cast<bf16*>(r.m), static_cast<bf16*>(r.v));
  });
}

}  // namespace
