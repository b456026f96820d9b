#include "ops/cpu/vector_portable.h"
// after a vector layer
#include "ops/cpu/kernel_table.h"

namespace rlhi::ops {

const Kernels* portable_kernels() {
  static constexpr Kernels kernels = make_kernels("portable");
  return &kernels;
}

}  // namespace rlhi::ops
