// What a kernel may use of the machine: indices, barriers, shuffles, shared memory, asynchronous copies, matrix products of
// a warp (mma.sync) and of a warpgroup (wgmma). Two forms with the same names: the hardware's, for nvcc, and plain C++ with
// the same layouts of fragments and shared memory, for every other compiler. Kernels are written once against these names.
//
// Lengths are in threads of a block, which is one-dimensional; the grid is too.
#pragma once
#include <cmath>
#include <cstdint>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/cuda/launch.h"

#ifdef __CUDACC__
#include "ops/cuda/kernels/device_nvcc.cuh"
#else
#include "ops/cuda/emulate/device.h"
#endif

namespace rlhi::ops::cuda {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RLHI_DEVICE int least(int a, int b) { return a < b ? a : b; }
RLHI_DEVICE int most(int a, int b) { return a > b ? a : b; }

// ---- sums and maxima over lanes, in a fixed tree -----------------------------------------------------------------------
template <int kLanes = 32, class T>
RLHI_DEVICE T lanes_sum(T v) {
  RLHI_UNROLL
  for (int m = kLanes / 2; m > 0; m /= 2) v += shuffle_xor(v, m);
  return v;
}
template <int kLanes = 32>
RLHI_DEVICE float lanes_max(float v) {
  RLHI_UNROLL
  for (int m = kLanes / 2; m > 0; m /= 2) v = fmaxf(v, shuffle_xor(v, m));
  return v;
}
// Over a block of kThreads; `scratch` holds kThreads/32 of T in shared memory and may be used again after the next barrier.
template <int kThreads, class T>
RLHI_DEVICE T block_sum(T v, T* scratch) {
  v = lanes_sum(v);
  if (kThreads == 32) return v;
  sync_threads();
  if (thread_index() % 32 == 0) scratch[thread_index() / 32] = v;
  sync_threads();
  T sum = scratch[0];
  RLHI_UNROLL
  for (int i = 1; i < kThreads / 32; ++i) sum += scratch[i];
  return sum;
}

}  // namespace rlhi::ops::cuda
