#if defined(__AVX512F__)
#include "ops/cpu/tiles_amx.h"
#include "ops/cpu/vector_avx512.h"
// after a tile and a vector layer
#include "ops/cpu/kernel_tiles_multiply.h"

namespace rlhi::ops {

const TileKernels* amx_tiles() {
  static constexpr TileKernels kernels = make_tile_kernels();
  return &kernels;
}

}  // namespace rlhi::ops
#else  // not an x86 build
#include "ops/cpu/kernels.h"

namespace rlhi::ops {

const TileKernels* amx_tiles() { return nullptr; }

}  // namespace rlhi::ops
#endif
