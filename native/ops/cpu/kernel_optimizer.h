// AdamW with decoupled decay, in PyTorch's order of operations (Loshchilov and Hutter, arXiv:1711.05101).
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

using rlhi::ops::AdamWRange;
using rlhi::ops::AdamWStep;
using rlhi::ops::kGolden;

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

void adamw(const AdamWStep& step, const AdamWRange& r) {
  with_type(r.grad, r.grad_dtype, [&](const auto* grad) {
    with_type(r.m, r.moments, [&](auto* m) { adamw_range(step, r, grad, m, static_cast<decltype(m)>(r.v)); });
  });
}

}  // namespace
