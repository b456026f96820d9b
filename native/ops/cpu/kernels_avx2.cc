#if defined(__AVX2__)
#include "ops/cpu/vector_avx2.h"
// after a vector layer
#include "ops/cpu/kernel_table.h"

namespace rlhi::ops {

const Kernels* avx2_kernels() {
  static constexpr Kernels kernels = make_kernels("avx2");
  return &kernels;
}

}  // namespace rlhi::ops
#else  // not an x86 build
#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace rlhi::ops
#endif
