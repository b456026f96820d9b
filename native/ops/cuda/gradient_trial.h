// Attention's gradients have two forms of kernels on GPUs with warpgroup products (AttentionPlan::specialized). Which one a GPU is faster
// with is tried, as algorithms of products are.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

// Whether the specialized form gives the bits of the other, and sooner, on pairs that have a prompt in common. Tried once a process for
// a device and head size; false where there is no memory for a trial. RLHI_CUDA_ATTENTION_BACKWARD=specialized or =uniform decides instead.
bool prefers_specialized_gradients(const Launch&, int head_dim);

}  // namespace rlhi::ops::cuda
