#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace rlhi::ops
