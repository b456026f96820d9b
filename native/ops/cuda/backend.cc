// The backend's life: choosing a device, and what every call begins with.
#include "ops/cuda/backend.h"

#include "base/error.h"

namespace rlhi::ops::cuda {

CudaBackend::CudaBackend(int device_index, const runtime::DeviceFacts& facts)
    : device(device_index), repeated(recorder, own.stream), launch{own.stream, facts.multiprocessors, device_index, &recorder}, gemm(launch),
      arrays(own.stream, repeated) {}

CudaBackend& enter(Backend* backend) {
  auto& cuda = *reinterpret_cast<CudaBackend*>(backend);
  // The runtime's current device belongs to the thread, and a session may call from another one than before.
  thread_local int current = -1;
  if (current != cuda.device) {
    runtime::use_device(cuda.device);
    current = cuda.device;
  }
  return cuda;
}

CudaBackend& enter_alone(Backend* backend) {
  CudaBackend& cuda = enter(backend);
  require_no_recording(cuda.recorder);
  return cuda;
}

}  // namespace rlhi::ops::cuda
