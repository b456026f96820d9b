// AdamW and the gradient's norm.
#include <algorithm>
#include <cmath>

#include "ops/cpu/backend.h"
#include "ops/pair_loss.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kBlock = 16384;  // elements of one partial sum: fixed, so that threads do not matter
constexpr int64_t kUpperHalf = int64_t{1} << 32;

}  // namespace

void adamw(Backend* backend, const AdamWArgs& a) {
  check_adamw(a);
  AdamWStep step = adamw_step(a);
  if (a.grad_scale) step.grad_scale = *a.grad_scale;
  if (std::isnan(step.grad_scale)) return;
  const auto update = [&](int64_t begin, int64_t end) {
    const auto index = static_cast<uint64_t>(a.first_element + begin);
    AdamWRange r;
    r.dtype = a.dtype, r.moments = a.moments, r.grad_dtype = a.grad_dtype;
    r.weight = static_cast<char*>(a.weight) + begin * dtype_size(a.dtype);
    r.remainder = a.remainder ? a.remainder + begin : nullptr;
    r.grad = static_cast<const char*>(a.grad) + begin * dtype_size(a.grad_dtype);
    r.m = static_cast<char*>(a.m) + begin * moment_size(a.moments), r.v = static_cast<char*>(a.v) + begin * moment_size(a.moments);
    r.m_scales = a.m_scales ? a.m_scales + begin / kMomentBlock : nullptr, r.v_scales = a.v_scales ? a.v_scales + begin / kMomentBlock : nullptr;
    r.n = end - begin;
    r.rounding = static_cast<uint32_t>(index) * kGolden + rounding_key(a.rounding_seed, static_cast<uint32_t>(index >> 32));
    backend->kernels.adamw(step, r);
  };
  for_ranges(*backend, a.n, kBlock, [&](int64_t begin, int64_t end, int) {
    // The key is of the index's upper half, so a range ends where that half grows.
    const int64_t cut = std::min(end, begin + (kUpperHalf - (a.first_element + begin) % kUpperHalf));
    update(begin, cut);
    if (cut < end) update(cut, end);
  }, kMomentBlock);
}

void sum_of_squares(Backend* backend, Tensor x, double* result) {
  check_sum_of_squares(x);
  const int64_t n = x.size();
  *result = 0;
  if (n == 0) return;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  double* partial = static_cast<double*>(backend->partial.bytes(static_cast<size_t>(blocks) * sizeof(double)));
  for_ranges(*backend, blocks, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlock;
      partial[i] = backend->kernels.sum_of_squares(row_pointer(x, 0, first), x.dtype, std::min(kBlock, n - first));
    }
  });
  for (int64_t i = 0; i < blocks; ++i) *result += partial[i];
}

void clip_factor(Backend*, const double* squares, int64_t n, double max_norm, float* factor) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += squares[i];
  *factor = clip_factor_of(sum, max_norm, *factor);
}

}  // namespace rlhi::ops
