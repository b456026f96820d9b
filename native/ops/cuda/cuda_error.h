// The CUDA runtime's errors as ours.
#pragma once
#include <cuda_runtime_api.h>

#include "base/error.h"

namespace rlhi::ops::cuda {

inline ErrorCode error_code_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation: return ErrorCode::out_of_memory;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInsufficientDriver: return ErrorCode::unsupported;
    // After these no call of the process on that GPU succeeds.
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown: return ErrorCode::device_lost;
    default: return ErrorCode::internal;
  }
}

inline void must_succeed(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  const ErrorCode code = error_code_of(status);
  fail(code, "CUDA: ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")",
       code == ErrorCode::device_lost ? "; this process can no longer use the GPU" : "");
}

}  // namespace rlhi::ops::cuda
