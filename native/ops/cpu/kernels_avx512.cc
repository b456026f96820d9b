#if defined(__AVX512F__)
#include "ops/cpu/vector_avx512.h"
// after a vector layer
#include "ops/cpu/kernel_table.h"

namespace rlhi::ops {

const Kernels* avx512_kernels() {
  static constexpr Kernels kernels = make_kernels("avx512");
  return &kernels;
}

}  // namespace rlhi::ops
#else  // not an x86 build
#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const Kernels* avx512_kernels() { return nullptr; }

}  // namespace rlhi::ops
#endif
