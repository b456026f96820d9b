// What librlhi_cuda.so offers to the engine that opens it (ops/device.cc): one function, and behind it these.
#pragma once
#include <string>
#include <vector>

#include "ops/ops.h"

namespace rlhi::ops::cuda {

struct FoundDevice {
  std::string name;
  int major = 0, minor = 0;      // compute capability
  int64_t memory_bytes = 0;
  bool usable = false;
  std::string why_not;           // where it is not usable
};

// The first two members never move: whoever opens the library reads them before anything else.
struct Library {
  uint32_t abi_version;          // ops::kAbiVersion
  const char* version;           // the package's
  std::vector<FoundDevice> (*devices)();      // throws unsupported without a driver
  std::string (*cublaslt)();                  // path and version; throws unsupported with the places that were tried
  Backend* (*open)(int device, const Table** table);  // throws unsupported, invalid_argument, out_of_memory
  void (*close)(Backend*);
  // GPU time, between two events, of what `work` enqueues.
  double (*milliseconds)(Backend*, void (*work)(void*), void* context);
  int64_t (*graph_launches)(Backend*);        // so far: how often repeated work was launched as one
};

// What dlsym gives for kEntryPoint.
using EntryPoint = const Library* (*)();
inline constexpr const char* kEntryPoint = "rlhi_cuda_library";
inline constexpr const char* kFileName = "librlhi_cuda.so";

}  // namespace rlhi::ops::cuda
