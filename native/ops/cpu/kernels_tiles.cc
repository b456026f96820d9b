#include "ops/cpu/tiles_plain.h"
#include "ops/cpu/vector_portable.h"
// after a tile and a vector layer
#include "ops/cpu/kernel_tiles_multiply.h"

namespace rlhi::ops {

const TileKernels* plain_tiles() {
  static constexpr TileKernels kernels = make_tile_kernels();
  return &kernels;
}

}  // namespace rlhi::ops
