// Loops that show what the processor can do at most: multiply-adds in registers, and reads.
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

constexpr int kChains = 12;  // independent, more than latency times issue width

double fma_loop(int64_t steps, double* flops) {
  V acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = vset(static_cast<float>(i));
  const V a = vset(0.999f), b = vset(0.001f);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = vfma(acc[i], a, b);
  }
  *flops = 2.0 * kChains * kWidth * static_cast<double>(steps);
  V sum = vzero();
  for (int i = 0; i < kChains; ++i) sum = sum + acc[i];
  return static_cast<double>(vsum(sum));
}

float read_loop(const float* x, int64_t n) {
  V m[4] = {vzero(), vzero(), vzero(), vzero()};
  for (int64_t i = 0; i + 4 * kWidth <= n; i += 4 * kWidth) {
    for (int j = 0; j < 4; ++j) m[j] = vmax(m[j], vload(x + i + j * kWidth));
  }
  return vmaximum(vmax(vmax(m[0], m[1]), vmax(m[2], m[3])));
}

}  // namespace
