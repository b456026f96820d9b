// AdamW with decoupled decay, in PyTorch's order of operations (Loshchilov and Hutter, arXiv:1711.05101).
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

using rlhi::ops::AdamWStep;

inline V adamw_update(const AdamWStep& s, V weight, V grad, V& m, V& v) {
  const V g = grad * vset(s.grad_scale);
  m = vfma(g - m, vset(s.one_minus_beta1), m);
  v = vfma(g * g, vset(s.one_minus_beta2), v * vset(s.beta2));
  const V denominator = vsqrt(v) * vset(s.inverse_sqrt_correction2) + vset(s.eps);
  return weight * vset(s.decay) - vset(s.step_size) * (m / denominator);
}

void adamw(const AdamWStep& step, DType dtype, void* weight, int16_t* remainder, const float* grad, float* m, float* v, int64_t n) {
  for_vectors(n, [&](int64_t i, int count) {
    V mi = load_up_to(m + i, count), vi = load_up_to(v + i, count);
    const V gi = load_up_to(grad + i, count);
    if (dtype == DType::f32) {
      float* w = static_cast<float*>(weight) + i;
      store_up_to(w, adamw_update(step, load_up_to(w, count), gi, mi, vi), count);
    } else {
      bf16* w = static_cast<bf16*>(weight) + i;
      bf16 high[kWidth] = {};
      int16_t low[kWidth] = {};
      if (count == kWidth) {
        vstore_master(w, remainder + i, adamw_update(step, vload_master(w, remainder + i), gi, mi, vi));
      } else {
        for (int j = 0; j < count; ++j) high[j] = w[j], low[j] = remainder[i + j];
        vstore_master(high, low, adamw_update(step, vload_master(high, low), gi, mi, vi));
        for (int j = 0; j < count; ++j) w[j] = high[j], remainder[i + j] = low[j];
      }
    }
    store_up_to(m + i, mi, count);
    store_up_to(v + i, vi, count);
  });
}

}  // namespace
