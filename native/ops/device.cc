#include "ops/device.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/version.h"
#include "ops/cuda/library.h"

namespace rlhi::ops {
namespace {

namespace fs = std::filesystem;

class CpuDevice : public Device {
 public:
  explicit CpuDevice(const CpuBackendOptions& options) : cpu_(options) {}
  const Table& table() const override { return cpu_.table(); }
  Backend* handle() const override { return cpu_.handle(); }
  int threads() const override { return cpu_.threads(); }
  double milliseconds(const std::function<void()>& work) override {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  }
  void start_trace() override { cpu_.start_trace(); }
  void write_trace(const std::string& path) override { cpu_.write_trace(path); }

 private:
  CpuBackend cpu_;
};

class CudaDevice : public Device {
 public:
  CudaDevice(const cuda::Library& library, int index) : library_(library), handle_(library.open(index, &table_)) {}
  ~CudaDevice() override { library_.close(handle_); }
  const Table& table() const override { return *table_; }
  Backend* handle() const override { return handle_; }
  int threads() const override { return 1; }
  double milliseconds(const std::function<void()>& work) override {
    return library_.milliseconds(handle_, [](void* f) { (*static_cast<const std::function<void()>*>(f))(); },
                                 const_cast<std::function<void()>*>(&work));
  }
  int64_t graph_launches() const override { return library_.graph_launches(handle_); }
  void start_trace() override { fail(ErrorCode::unsupported, "a trace is made of a CPU's operations only; Nsight Systems traces a GPU's"); }
  void write_trace(const std::string&) override { start_trace(); }

 private:
  const cuda::Library& library_;
  const Table* table_ = nullptr;
  Backend* handle_;
};

// ---- finding and opening the library ---------------------------------------------------------------------------------
// The folder of the binary that this code is in: the addon, or a program.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&check_device_name), &info) || !info.dli_fname) return ".";
  std::error_code ignored;
  return fs::canonical(info.dli_fname, ignored).parent_path().string();
}

std::vector<std::string> library_places() {
  if (const char* set = std::getenv("RLHI_CUDA_LIBRARY"); set && *set) return {set};
  const std::string folder = own_folder();
  // cmake-js leaves the addon in build/Release and programs in build.
  return {folder + "/" + cuda::kFileName, folder + "/Release/" + cuda::kFileName, folder + "/../" + cuda::kFileName};
}

std::string library_path() {
  for (const std::string& path : library_places()) {
    std::error_code ignored;
    if (fs::exists(path, ignored)) return path;
  }
  return "";
}

// Opened once in a process and kept.
const cuda::Library& open_library(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* why = handle ? nullptr : dlerror();
  check(handle != nullptr, ErrorCode::unsupported, path, " cannot be opened: ", why ? why : "unknown reason");
  const auto entry = reinterpret_cast<cuda::EntryPoint>(dlsym(handle, cuda::kEntryPoint));
  check(entry != nullptr, ErrorCode::unsupported, path, ": not the CUDA backend: no function ", cuda::kEntryPoint);
  const cuda::Library& library = *entry();
  check(library.abi_version == kAbiVersion && std::string(library.version) == kVersion, ErrorCode::unsupported, path, " is of version ",
        library.version, " (interface ", library.abi_version, "), this is version ", kVersion, " (interface ", kAbiVersion,
        "); build both together: RLHI_CUDA=on");
  return library;
}

const cuda::Library& library() {
  const std::string path = library_path();
  if (path.empty()) {
    std::string places;
    for (const std::string& place : library_places()) places += "\n  " + place;
    fail(ErrorCode::unsupported, "the CUDA backend is not here. Build it where CUDA's compiler (nvcc) is installed: "
         "npx cmake-js compile --CDRLHI_CUDA=on; RLHI_CUDA_LIBRARY names the file itself. Looked for:", places);
  }
  return open_library(path);
}

// "cuda" and "cuda:N" to N; -1 for "cpu".
int device_index(const std::string& name) {
  if (name == "cpu") return -1;
  if (name == "cuda") return 0;
  const std::string digits = name.starts_with("cuda:") ? name.substr(5) : "";
  check(!digits.empty() && digits.size() <= 3 && digits.find_first_not_of("0123456789") == std::string::npos, ErrorCode::invalid_argument,
        "device: expected cpu, cuda or cuda:N, found ", name);
  return std::atoi(digits.c_str());
}

std::string describe(const cuda::FoundDevice& d) {
  return concat(d.name, ", compute capability ", d.major, ".", d.minor, ", ", d.memory_bytes >> 20, " MiB", d.usable ? "" : ": not usable: ",
                d.why_not);
}

}  // namespace

void check_device_name(const std::string& name) { device_index(name); }

std::unique_ptr<Device> open_device(const DeviceOptions& options) {
  const int index = device_index(options.name);
  if (index >= 0) return std::make_unique<CudaDevice>(library(), index);
  CpuBackendOptions cpu;
  cpu.threads = options.threads;
  cpu.isa = options.isa;
  return std::make_unique<CpuDevice>(cpu);
}

CudaReport find_cuda() {
  CudaReport report;
  try {
    const cuda::Library& found = library();
    report.library = library_path();
    bool usable = false;
    for (const cuda::FoundDevice& d : found.devices()) {
      report.devices.push_back(describe(d));
      usable = usable || d.usable;
    }
    check(usable, ErrorCode::unsupported, report.devices.empty() ? "no NVIDIA GPU was found" : "no GPU of this machine can be used");
    report.cublaslt = found.cublaslt();
  } catch (const Error& e) {
    report.missing = e.what();
  }
  return report;
}

}  // namespace rlhi::ops
