#include "ops/cuda/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/error.h"

namespace rlhi::ops::cuda::lt {
namespace {

namespace fs = std::filesystem;

const char* const kFileNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};  // the driver decides whether they run; newest first

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// PREFIX/lib/python3.X/site-packages/nvidia/{cu13, cublas}/lib: where the nvidia-cublas wheels put it.
void add_python_prefix(const fs::path& prefix, std::vector<std::string>& folders) {
  std::error_code ignored;
  for (const char* lib : {"lib", "lib64"}) {
    for (const auto& entry : fs::directory_iterator(prefix / lib, ignored)) {
      if (entry.path().filename().string().rfind("python3", 0) != 0) continue;
      for (const char* packages : {"site-packages", "dist-packages"})
        for (const char* wheel : {"nvidia/cu13/lib", "nvidia/cublas/lib"}) folders.push_back((entry.path() / packages / wheel).string());
    }
  }
}

// The Python that a shell would start: its folder's parent is the environment, or, where it is a link, the link's target's is.
std::vector<fs::path> python_prefixes() {
  std::vector<fs::path> prefixes;
  const std::string path = environment("PATH");
  std::error_code ignored;
  for (size_t begin = 0; begin < path.size() && prefixes.empty();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    fs::path python = fs::path(path.substr(begin, end - begin)) / "python3";
    for (int links = 0; links < 8 && fs::exists(python, ignored); ++links) {
      prefixes.push_back(python.parent_path().parent_path());
      if (!fs::is_symlink(python, ignored)) break;
      const fs::path target = fs::read_symlink(python, ignored);
      python = target.is_absolute() ? target : python.parent_path() / target;
    }
    begin = end + 1;
  }
  return prefixes;
}

std::vector<std::string> folders() {
  std::vector<std::string> all;
  for (const char* root : {"CUDA_HOME", "CUDA_PATH"}) {
    if (environment(root).empty()) continue;
    for (const char* lib : {"/lib64", "/targets/x86_64-linux/lib"}) all.push_back(environment(root) + lib);
  }
  for (const char* folder : {"/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu"}) all.push_back(folder);
  std::vector<fs::path> prefixes = python_prefixes();
  for (const char* name : {"CONDA_PREFIX", "VIRTUAL_ENV"})
    if (!environment(name).empty()) prefixes.insert(prefixes.begin(), environment(name));
  for (const fs::path& prefix : prefixes) add_python_prefix(prefix, all);
  return all;
}

template <class F>
void find(void* handle, const std::string& path, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(handle, concat("cublasLt", name).c_str()));
  check(function != nullptr, ErrorCode::unsupported, path, ": no function cublasLt", name, "; another version of cuBLASLt is needed");
}

Library resolve(void* handle, const std::string& path) {
  Library lib;
  Dl_info info;
  lib.path = dladdr(dlsym(handle, "cublasLtCreate"), &info) && info.dli_fname ? info.dli_fname : path;
#define RLHI_FIND(name) find(handle, path, #name, lib.name)
  RLHI_FIND(GetVersion);
  RLHI_FIND(GetStatusName);
  RLHI_FIND(Create);
  RLHI_FIND(Destroy);
  RLHI_FIND(MatrixLayoutCreate);
  RLHI_FIND(MatrixLayoutDestroy);
  RLHI_FIND(MatmulDescCreate);
  RLHI_FIND(MatmulDescDestroy);
  RLHI_FIND(MatmulDescSetAttribute);
  RLHI_FIND(MatmulPreferenceCreate);
  RLHI_FIND(MatmulPreferenceDestroy);
  RLHI_FIND(MatmulPreferenceSetAttribute);
  RLHI_FIND(MatmulAlgoGetHeuristic);
  RLHI_FIND(MatmulAlgoCheck);
  RLHI_FIND(MatmulAlgoConfigGetAttribute);
  RLHI_FIND(Matmul);
#undef RLHI_FIND
  return lib;
}

std::vector<std::string> search_list() {
  if (const std::string file = environment("RLHI_CUBLASLT"); !file.empty()) return {file};
  std::vector<std::string> list;
  for (const char* name : kFileNames) {
    list.push_back(name);  // the dynamic loader's own places: LD_LIBRARY_PATH, ldconfig
    for (const std::string& folder : folders()) {
      const std::string file = concat(folder, "/", name);
      std::error_code ignored;
      if (fs::exists(file, ignored)) list.push_back(file);
    }
  }
  return list;
}

Library open() {
  std::string tried;
  for (const std::string& path : search_list()) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return resolve(handle, path);
    const char* why = dlerror();
    tried += concat("\n  ", why ? why : path);
  }
  if (environment("RLHI_CUBLASLT").empty())
    for (const std::string& folder : folders()) tried += concat("\n  ", folder);
  fail(ErrorCode::unsupported, "cuBLASLt was not found. It comes with the CUDA toolkit, or with `pip install nvidia-cublas`; RLHI_CUBLASLT names the "
       "file itself. Tried:", tried);
}

}  // namespace

const Library& library() {
  static const Library& opened = *new Library(open());  // outlives whatever is closed at the process's end
  return opened;
}

}  // namespace rlhi::ops::cuda::lt
