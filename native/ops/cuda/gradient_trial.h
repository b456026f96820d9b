// Attention's gradients have two forms of kernels on GPUs with warpgroup products (AttentionPlan::specialized). Which one a GPU is faster
// with is tried, as algorithms of products are.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

// Whether the specialized form gives the bits of the other, and sooner, on pairs of about 500 tokens a part. Tried once a process for a
// device, a head size, and an even or odd number of query heads a key head; false where there is no memory for a trial (170 MB at most).
// RLHI_CUDA_ATTENTION_BACKWARD=specialized or =uniform decides instead.
bool prefers_specialized_gradients(const Launch&, const AttentionArgs&);

}  // namespace rlhi::ops::cuda
