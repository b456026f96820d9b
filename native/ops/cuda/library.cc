// The library's one exported function.
#include "ops/cuda/library.h"

#include "base/error.h"
#include "base/version.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/cublaslt.h"

namespace rlhi::ops::cuda {
namespace {

// Runs one kernel: the library may hold no machine code for this GPU, or the driver may refuse it.
void probe(int device, const runtime::DeviceFacts& facts) {
  runtime::require_kernels(facts);
  runtime::use_device(device);
  const runtime::OwnStream own;
  const Launch launch{own.stream, facts.multiprocessors};
  DeviceScratch scratch;
  const Tensor number(scratch.bytes(sizeof(float)), DType::f32, 1, 1);
  runtime::zero(own.stream, number.data, sizeof(float));
  add(launch, number, number);
  runtime::synchronize(own.stream);
}

std::vector<FoundDevice> devices() {
  std::vector<FoundDevice> found;
  const int n = runtime::device_count();
  for (int i = 0; i < n; ++i) {
    const runtime::DeviceFacts facts = runtime::device_facts(i);
    FoundDevice d{facts.name, facts.major, facts.minor, facts.memory_bytes, true, ""};
    try {
      probe(i, facts);
    } catch (const Error& e) {
      d.usable = false;
      d.why_not = e.what();
    }
    found.push_back(d);
  }
  return found;
}

std::string cublaslt() {
  const lt::Library& lib = lt::library();
  return concat(lib.path, ", version ", lib.GetVersion());
}

Backend* open(int device, const Table** filled) {
  const int n = runtime::device_count();
  check(n > 0, ErrorCode::unsupported, "no NVIDIA GPU was found");
  check(device >= 0 && device < n, ErrorCode::invalid_argument, "cuda:", device, " was asked for; this machine has ", n == 1 ? "only cuda:0" :
        concat("cuda:0 to cuda:", n - 1));
  const runtime::DeviceFacts facts = runtime::device_facts(device);
  probe(device, facts);
  auto* cuda = new CudaBackend(device, facts);
  *filled = &table();
  return reinterpret_cast<Backend*>(cuda);
}

void close(Backend* backend) {
  try {
    enter(backend);
  } catch (const Error&) {
    // the runtime has ended before us, at the process's end: releasing does nothing then
  }
  delete reinterpret_cast<CudaBackend*>(backend);
}

double milliseconds(Backend* backend, void (*work)(void*), void* context) {
  CudaBackend& cuda = enter(backend);
  const runtime::OwnEvent begin, end;
  runtime::record(begin.event, cuda.launch.stream);
  work(context);
  runtime::record(end.event, cuda.launch.stream);
  runtime::wait(end.event);
  return runtime::milliseconds(begin.event, end.event);
}

int64_t graph_launches(Backend* backend) { return enter(backend).repeated.graph_launches(); }

}  // namespace
}  // namespace rlhi::ops::cuda

extern "C" __attribute__((visibility("default"))) const rlhi::ops::cuda::Library* rlhi_cuda_library() {
  using namespace rlhi::ops::cuda;
  static const Library library{rlhi::ops::kAbiVersion, rlhi::kVersion, devices, cublaslt, open, close, milliseconds, graph_launches};
  return &library;
}
