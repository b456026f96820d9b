// AdamWArgs as the kernels of every backend need it: constants worked out in double, rounded once.
#pragma once
#include <cmath>
#include <cstdint>

#include "ops/ops.h"

namespace rlhi::ops {

struct AdamWStep {
  float grad_scale, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_sqrt_correction2, eps;
};

inline AdamWStep adamw_step(const AdamWArgs& a) {
  AdamWStep step;
  step.grad_scale = 1;  // a backend reads it from its memory
  step.decay = static_cast<float>(1.0 - a.lr * a.weight_decay);
  step.one_minus_beta1 = static_cast<float>(1.0 - a.beta1);
  step.beta2 = static_cast<float>(a.beta2);
  step.one_minus_beta2 = static_cast<float>(1.0 - a.beta2);
  step.step_size = static_cast<float>(a.lr / a.bias_correction1);
  step.inverse_sqrt_correction2 = static_cast<float>(1.0 / std::sqrt(a.bias_correction2));
  step.eps = static_cast<float>(a.eps);
  return step;
}

// Random bits that round element i's moments to bf16: hash_bits(i * kGolden + rounding_key(seed, i >> 32)), the lower half for the
// first moment, the upper for the second. hash_bits is Chris Wellons' lowbias32: every output bit depends on every input bit.
constexpr uint32_t kGolden = 0x9e3779b9u;
constexpr uint32_t hash_bits(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}
constexpr uint32_t rounding_key(uint32_t seed, uint32_t upper_index) { return hash_bits(seed + hash_bits(upper_index)); }

}  // namespace rlhi::ops
