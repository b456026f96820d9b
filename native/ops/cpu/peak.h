// What this machine can do at most, measured now: the yardstick beside every figure of speed.
#pragma once
#include "ops/cpu/cpu_backend.h"

namespace rlhi::ops {

// FLOP/s of products in registers, of the kind that `isa` makes matrices of this type by (multiply-adds of f32, or tiles of
// bf16), all `threads` at once (0: all cores); the median of several runs of a few milliseconds each. The numbers multiplied
// are random: with zeros a processor draws less power and may run faster than it ever does at work. Throws unsupported where the
// machine cannot run `isa`.
double measure_matrix_peak(DType dtype, CpuIsa isa = default_isa(), int threads = 0);

// Bytes a second that `threads` read from a buffer larger than the caches (256 MiB); the median of several passes.
double measure_read_bandwidth(int threads = 0);

}  // namespace rlhi::ops
