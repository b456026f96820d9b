// What this machine can do at most, measured now: the yardstick beside every figure of speed.
#pragma once
#include "ops/cpu/cpu_backend.h"

namespace rlhi::ops {

// FLOP/s of f32 multiply-adds in registers, all `threads` at once (0: all cores); the median of several runs of a few
// milliseconds each. Throws unsupported where the machine cannot run `isa`.
double measure_fma_peak(CpuIsa isa = default_isa(), int threads = 0);

// Bytes a second that `threads` read from a buffer larger than the caches (256 MiB); the median of several passes.
double measure_read_bandwidth(int threads = 0);

}  // namespace rlhi::ops
