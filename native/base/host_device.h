// Functions that a GPU's kernels call too are marked with this: nothing to every compiler but nvcc.
#pragma once

#ifdef __CUDACC__
#define RLHI_HOST_DEVICE __host__ __device__
#else
#define RLHI_HOST_DEVICE
#endif
