// What a device can do at most, measured now through its own table: the yardstick beside a GPU's figures, as ops/cpu/peak.h is beside a CPU's.
#pragma once
#include "ops/device.h"

namespace rlhi::ops {

struct DeviceLimits {
  double matrix_flops = 0;               // FLOP/s of the fastest square product of random numbers, f32 or bf16 into the same type
  double copy_bytes = 0;                 // bytes/s read and written by a large copy
};

// Products grow to 8192 on a side and copies to 1 GiB, or until one takes 2 ms. Throws out_of_memory.
DeviceLimits measure_device(Device& device, DType dtype);

}  // namespace rlhi::ops
