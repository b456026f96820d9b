// The backend that a model runs on, opened by name: the CPU's, which is always there, or that of librlhi_cuda.so, which is
// looked for only when a GPU is asked for.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/ops.h"

namespace rlhi::ops {

class Device {
 public:
  virtual ~Device() = default;
  virtual const Table& table() const = 0;
  virtual Backend* handle() const = 0;
  virtual int threads() const = 0;       // of the host that operations use
  // Time of what `work` makes the device do: between two events on a GPU, by the clock on a CPU.
  virtual double milliseconds(const std::function<void()>& work) = 0;
  virtual int64_t graph_launches() const { return 0; }  // how often repeated work (ops.h) was launched as one
  // Until the trace is written, operations and what each thread does for them are noted. Throws unsupported on a GPU.
  virtual void start_trace() = 0;
  virtual void write_trace(const std::string& path) = 0;
  bool is_cpu() const { return ops::is_cpu(table()); }
};

struct DeviceOptions {
  std::string name = "cpu";              // "cpu", "cuda" (the first GPU) or "cuda:N"
  int threads = 0;                       // CPU: 0 for all logical cores
  CpuIsa isa = default_isa();            // CPU
};

// Throws invalid_argument for another name or a GPU that is not there; unsupported, with what is missing and how to get it,
// where GPUs cannot be used on this machine.
std::unique_ptr<Device> open_device(const DeviceOptions& options);
void check_device_name(const std::string& name);  // the form alone

// What a GPU run would find here. Never throws: `missing` says what an opening would have said.
struct CudaReport {
  std::string library;                   // path of librlhi_cuda.so, "" where it is not there
  std::vector<std::string> devices;      // "NVIDIA H200, compute capability 9.0, 143771 MiB"
  std::string cublaslt;                  // path and version
  std::string missing;                   // "" where everything is here
};
CudaReport find_cuda();

}  // namespace rlhi::ops
