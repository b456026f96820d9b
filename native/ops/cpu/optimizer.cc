// AdamW and the gradient's norm.
#include <cmath>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kBlock = 16384;  // elements of one partial sum: fixed, so that threads do not matter

}  // namespace

void adamw(Backend* backend, const AdamWArgs& a) {
  check_adamw(a);
  AdamWStep step;
  step.grad_scale = a.grad_scale;
  step.decay = static_cast<float>(1.0 - a.lr * a.weight_decay);
  step.one_minus_beta1 = static_cast<float>(1.0 - a.beta1);
  step.beta2 = static_cast<float>(a.beta2);
  step.one_minus_beta2 = static_cast<float>(1.0 - a.beta2);
  step.step_size = static_cast<float>(a.lr / a.bias_correction1);
  step.inverse_sqrt_correction2 = static_cast<float>(1.0 / std::sqrt(a.bias_correction2));
  step.eps = static_cast<float>(a.eps);
  for_ranges(*backend, a.n, kBlock, [&](int64_t begin, int64_t end, int) {
    char* weight = static_cast<char*>(a.weight) + begin * dtype_size(a.dtype);
    backend->kernels.adamw(step, a.dtype, weight, a.remainder ? a.remainder + begin : nullptr, a.grad + begin, a.m + begin, a.v + begin,
                           end - begin);
  });
}

double sum_of_squares(Backend* backend, const float* x, int64_t n) {
  if (n <= 0) return 0;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  double* partial = static_cast<double*>(backend->partial.bytes(static_cast<size_t>(blocks) * sizeof(double)));
  for_ranges(*backend, blocks, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlock;
      partial[i] = backend->kernels.sum_of_squares(x + first, first + kBlock < n ? kBlock : n - first);
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < blocks; ++i) sum += partial[i];
  return sum;
}

}  // namespace rlhi::ops
