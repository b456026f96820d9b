// rlhi_native_tests [--device NAME] [FILTER ...]: runs every registered test whose name contains one of the FILTERs. With
// --device cuda[:N] what computes runs on that GPU, through librlhi_cuda.so; with --device emulated through the same host code
// over emulated kernels and an emulated runtime (librlhi_cuda_emulated.so, beside this program); that is slow, so without a
// FILTER it runs a selection: training, resuming, scoring and generation against the oracles, and one test of each operation.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "test/backends.h"
#include "test/check.h"

namespace rlhi::test {
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
std::string shared_dir() {
  const char* set = std::getenv("RLHI_SHARED");
  const std::string dir = set ? set : "../shared";
  struct stat s;
  return stat((dir + "/oracles").c_str(), &s) == 0 ? dir : "";
}
}  // namespace rlhi::test

namespace {

bool wanted(const std::string& name, const std::vector<std::string>& filters) {
  if (filters.empty()) return true;
  for (const std::string& filter : filters)
    if (name.find(filter) != std::string::npos) return true;
  return false;
}

const std::vector<std::string> kEmulatedSelection = {
    "oracle: per-pair", "oracle: every gradient", "oracle: bf16", "oracle: six AdamW", "generator: greedy", "trainer: a run stopped", "transformer: a tree",
    "score: the same bits", "gemm: f32 and bf16", "attention: decoding", "attention: one token", "linear_logprob backward", "adamw", "rms_norm forward",
    "swiglu forward", "rope rotates", "copy, gather"};

void choose_device(const std::string& program, const std::string& name) {
  rlhi::test::chosen_device() = name == "emulated" ? "cuda" : name;
  if (name != "emulated") return;
  const std::string folder = std::filesystem::absolute(program).parent_path().string();
  setenv("RLHI_CUDA_LIBRARY", (folder + "/librlhi_cuda_emulated.so").c_str(), 1);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> filters;
  bool emulated = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--device" && i + 1 < argc) {
      choose_device(argv[0], argv[++i]);
      emulated = std::string(argv[i]) == "emulated";
      continue;
    }
    filters.push_back(argument);
  }
  if (emulated && filters.empty()) filters = kEmulatedSelection;
  int passed = 0, failed = 0, skipped = 0;
  for (const auto& c : rlhi::test::cases()) {
    if (!wanted(c.name, filters)) continue;
    try {
      c.run();
      ++passed;
      std::printf("ok    %s\n", c.name.c_str());
    } catch (const rlhi::test::Skip& s) {
      ++skipped;
      std::printf("skip  %s: %s\n", c.name.c_str(), s.why.c_str());
    } catch (const std::exception& e) {
      ++failed;
      std::printf("FAIL  %s: %s\n", c.name.c_str(), e.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed > 0 || passed == 0 ? 1 : 0;
}
