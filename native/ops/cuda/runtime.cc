#include "ops/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "ops/cuda/cuda_error.h"

namespace rlhi::ops::cuda::runtime {
namespace {

void must(cudaError_t status, const char* what) { must_succeed(status, what); }

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

int device_count() {
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t asked = cudaDriverGetVersion(&driver);
  check(asked == cudaSuccess && driver > 0, ErrorCode::unsupported, "no NVIDIA driver was found (libcuda.so.1); install the driver for CUDA ",
        version_text(runtime), " or newer");
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorInsufficientDriver)
    fail(ErrorCode::unsupported, "the NVIDIA driver supports CUDA ", version_text(driver), " and is too old for this library, built with CUDA ",
         version_text(runtime), "; install a newer driver");
  if (counted == cudaErrorNoDevice) return 0;
  must(counted, "counting the GPUs");
  return count;
}

DeviceFacts device_facts(int device) {
  cudaDeviceProp p;
  must(cudaGetDeviceProperties(&p, device), "reading the GPU's properties");
  return {p.name, p.major, p.minor, p.multiProcessorCount, static_cast<int64_t>(p.totalGlobalMem)};
}

void require_kernels(const DeviceFacts& facts) {
  check(facts.major >= 8, ErrorCode::unsupported, facts.name, " has compute capability ", facts.major, ".", facts.minor,
        "; 8.0 (A100) or newer is needed, for bf16 tensor cores");
}

void use_device(int device) { must(cudaSetDevice(device), "choosing the GPU"); }

Stream create_stream(Work) {
  Stream stream = nullptr;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  return stream;
}
void destroy_stream(Stream stream) noexcept { cudaStreamDestroy(stream); }
void synchronize(Stream stream) { must(cudaStreamSynchronize(stream), "waiting for the GPU"); }

void* allocate(size_t bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  must(status, "allocating memory");
  return p;
}
void release(void* p) noexcept { cudaFree(p); }

void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  const cudaError_t status = cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  must(status, "allocating pinned host memory");
  return p;
}
void release_pinned(void* p) noexcept { cudaFreeHost(p); }

int64_t free_bytes() {
  size_t free = 0, total = 0;
  must(cudaMemGetInfo(&free, &total), "asking for free memory");
  return static_cast<int64_t>(free);
}

void copy_in(Stream stream, void* to_device, const void* from_host, size_t bytes) {
  must(cudaMemcpyAsync(to_device, from_host, bytes, cudaMemcpyDefault, stream), "copying to the GPU");
}
void copy_out(Stream stream, void* to_host, const void* from_device, size_t bytes) {
  must(cudaMemcpyAsync(to_host, from_device, bytes, cudaMemcpyDefault, stream), "copying from the GPU");
}
void zero(Stream stream, void* device, size_t bytes) { must(cudaMemsetAsync(device, 0, bytes, stream), "zeroing memory"); }
void zero_rows(Stream stream, void* device, size_t stride_bytes, size_t width_bytes, size_t rows) {
  must(cudaMemset2DAsync(device, stride_bytes, 0, width_bytes, rows, stream), "zeroing rows");
}

Event create_event() {
  Event event = nullptr;
  must(cudaEventCreate(&event), "creating an event");
  return event;
}
void destroy_event(Event event) noexcept { cudaEventDestroy(event); }
void record(Event event, Stream stream) { must(cudaEventRecord(event, stream), "recording an event"); }
void wait_for(Stream stream, Event event) { must(cudaStreamWaitEvent(stream, event, 0), "making a stream wait"); }
void wait(Event event) { must(cudaEventSynchronize(event), "waiting for the GPU"); }
bool passed(Event event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  must(status, "asking the GPU how far it is");
  return true;
}
double milliseconds(Event begin, Event end) {
  float ms = 0;
  must(cudaEventElapsedTime(&ms, begin, end), "reading the time between events");
  return static_cast<double>(ms);
}

void begin_capture(Stream stream) { must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a graph"); }
Graph end_capture(Stream stream) {
  cudaGraph_t captured = nullptr;
  must(cudaStreamEndCapture(stream, &captured), "ending a graph");
  Graph graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, captured, 0);
  cudaGraphDestroy(captured);
  must(status, "making a graph");
  return graph;
}
void abandon_capture(Stream stream) noexcept {
  cudaGraph_t captured = nullptr;
  cudaStreamEndCapture(stream, &captured);
  if (captured) cudaGraphDestroy(captured);
  cudaGetLastError();  // an abandoned capture has an error of its own
}
void launch(Graph graph, Stream stream) { must(cudaGraphLaunch(graph, stream), "launching a graph"); }
void destroy_graph(Graph graph) noexcept { cudaGraphExecDestroy(graph); }

}  // namespace rlhi::ops::cuda::runtime
