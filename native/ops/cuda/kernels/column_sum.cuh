// The second stage of sums over rows, for every kernel whose blocks leave partial sums.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

// to[j] += sum over chunks of partial[chunk, j], in an order that depends on the number of chunks alone.
void add_partials(const Launch&, float* to, const float* partial, int64_t chunks, int64_t cols);

}  // namespace rlhi::ops::cuda
