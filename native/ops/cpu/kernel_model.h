// Rows of the transformer: normalisation, rotation, gated activation.
#pragma once
#include <type_traits>

#include "ops/cpu/kernel_math.h"

namespace {

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps). y may be x.
void rms_norm(float* y, const float* x, const float* weight, float eps, int64_t n, float* rstd) {
  const float sum = sum_over(n, [&](int64_t i, int count) {
    const V v = load_up_to(x + i, count);
    return v * v;
  });
  const float r = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
  *rstd = r;
  for_vectors(n, [&](int64_t i, int count) {
    store_up_to(y + i, load_up_to(x + i, count) * vset(r) * load_up_to(weight + i, count), count);
  });
}

// With xhat = x rstd: dx = rstd (dy w - xhat mean(dy w xhat)), dweight += dy xhat (dweight may be null). dx may be dy.
void rms_norm_backward(float* dx, float* dweight, const float* dy, const float* x, const float* weight, float rstd, int64_t n,
                       bool accumulate) {
  const float sum = sum_over(n, [&](int64_t i, int count) {
    return load_up_to(dy + i, count) * load_up_to(weight + i, count) * load_up_to(x + i, count);
  });
  const V mean = vset(sum * rstd / static_cast<float>(n));
  for_vectors(n, [&](int64_t i, int count) {
    const V d = load_up_to(dy + i, count), xhat = load_up_to(x + i, count) * vset(rstd);
    if (dweight) store_up_to(dweight + i, vfma(d, xhat, load_up_to(dweight + i, count)), count);
    V g = (d * load_up_to(weight + i, count) - xhat * mean) * vset(rstd);
    if (accumulate) g = load_up_to(dx + i, count) + g;
    store_up_to(dx + i, g, count);
  });
}

// The dweight of rms_norm_backward alone, bit for bit.
void rms_norm_weight(float* dweight, const float* dy, const float* x, float rstd, int64_t n) {
  for_vectors(n, [&](int64_t i, int count) {
    const V xhat = load_up_to(x + i, count) * vset(rstd);
    store_up_to(dweight + i, vfma(load_up_to(dy + i, count), xhat, load_up_to(dweight + i, count)), count);
  });
}

template <class T>
void rope_heads(T* x, int64_t heads, int head_dim, const float* cos_sin, float direction) {
  const int half = head_dim / 2;
  for (int64_t h = 0; h < heads; ++h, x += head_dim) {
    for_vectors(half, [&](int64_t i, int count) {
      const V c = load_up_to(cos_sin + i, count), s = load_up_to(cos_sin + half + i, count) * vset(direction);
      const V x1 = load_up_to(x + i, count), x2 = load_up_to(x + half + i, count);
      store_up_to(x + i, x1 * c - x2 * s, count);
      store_up_to(x + half + i, x2 * c + x1 * s, count);
    });
  }
}
void rope(void* x, DType dtype, int64_t heads, int head_dim, const float* cos_sin, float direction) {
  with_type(x, dtype, [&](auto* p) { rope_heads(p, heads, head_dim, cos_sin, direction); });
}

// gate_up: n gates, then n ups. out = gate sigmoid(gate) up
void swiglu(void* out, DType out_dtype, const void* gate_up, DType dtype, int64_t n) {
  with_type(out, out_dtype, [&](auto* to) {
    with_type(gate_up, dtype, [&](const auto* gate) {
      for_vectors(n, [&](int64_t i, int count) {
        const V g = load_up_to(gate + i, count);
        store_up_to(to + i, g * vsigmoid_for<std::remove_pointer_t<decltype(to)>>(g) * load_up_to(gate + n + i, count), count);
      });
    });
  });
}

// dgate = dout up s (1 + gate (1 - s)), dup = dout gate s with s = sigmoid(gate). dgate_up may be gate_up.
// Where `out` is given it receives gate s up, and may be dout.
template <class Out>
inline void swiglu_backward_to(void* dgate_up, DType to_dtype, const void* dout, DType dout_dtype, const void* gate_up, DType dtype, Out* out,
                               int64_t n) {
  with_type(dgate_up, to_dtype, [&](auto* to) {
    with_type(dout, dout_dtype, [&](const auto* from) {
      with_type(gate_up, dtype, [&](const auto* gate) {
        for_vectors(n, [&](int64_t i, int count) {
          const V g = load_up_to(gate + i, count), u = load_up_to(gate + n + i, count), d = load_up_to(from + i, count);
          const V s = vsigmoid_for<std::remove_pointer_t<decltype(to)>>(g);
          store_up_to(to + i, d * u * s * vfma(g, vset(1.0f) - s, vset(1.0f)), count);
          store_up_to(to + n + i, d * g * s, count);
          if (out) store_up_to(out + i, g * s * u, count);
        });
      });
    });
  });
}
void swiglu_backward(void* dgate_up, DType to_dtype, const void* dout, DType dout_dtype, const void* gate_up, DType dtype, void* out,
                     DType out_dtype, int64_t n) {
  with_type(out, out_dtype, [&](auto* to) { swiglu_backward_to(dgate_up, to_dtype, dout, dout_dtype, gate_up, dtype, to, n); });
}

}  // namespace
