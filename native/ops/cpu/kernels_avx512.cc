#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const Kernels* avx512_kernels() { return nullptr; }

}  // namespace rlhi::ops
