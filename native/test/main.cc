// rlhi_native_tests [--device NAME] [--isa NAME] [--ops test|grad|perf] [FILTER ...]: runs every registered test whose name contains one
// of the FILTERs. With --device cuda[:N] what computes runs on that GPU, through librlhi_cuda.so; with --device emulated through the same
// host code over emulated kernels and an emulated runtime (librlhi_cuda_emulated.so, beside this program); that is slow, so without a
// FILTER it runs a selection: training, resuming, scoring and generation against the oracles, and some cases of each operation. --isa
// leaves one path of the CPU. --ops runs the table of operations alone (op_table/): its values, its gradients, or what it takes.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "test/backends.h"
#include "test/check.h"
#include "test/op_table/op_table.h"

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
    "score: the same bits", "generation: a decoding step", "repeated work:", "saves:", "attention: one token", "gemm: few rows", "choose_tokens:",
    "adamw: moments in host memory", "trainer: moments in host memory", "ops test:", "ops grad:"};

void choose_device(const std::string& program, const std::string& name) {
  rlhi::test::chosen_device() = name == "emulated" ? "cuda" : name;
  if (name != "emulated") return;
  const std::string folder = std::filesystem::absolute(program).parent_path().string();
  setenv("RLHI_CUDA_LIBRARY", (folder + "/librlhi_cuda_emulated.so").c_str(), 1);
}

rlhi::ops::CpuIsa isa_of(const std::string& name) {
  std::string known;
  for (const rlhi::ops::CpuIsa isa : rlhi::ops::available_isas()) {
    if (name == rlhi::ops::isa_name(isa)) return isa;
    known += std::string(known.empty() ? "" : ", ") + rlhi::ops::isa_name(isa);
  }
  rlhi::fail(rlhi::ErrorCode::invalid_argument, "--isa: expected one of ", known, ", found ", name);
}

struct Arguments {
  std::vector<std::string> filters;
  std::string ops;                 // "", "test", "grad" or "perf"
  bool emulated = false;
};

Arguments read_arguments(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument != "--device" && argument != "--isa" && argument != "--ops") {
      a.filters.push_back(argument);
      continue;
    }
    rlhi::check(i + 1 < argc, rlhi::ErrorCode::invalid_argument, argument, ": a value is missing");
    const std::string value = argv[++i];
    if (argument == "--isa") rlhi::test::chosen_isa() = isa_of(value);
    if (argument == "--device") choose_device(argv[0], value), a.emulated = value == "emulated";
    if (argument == "--ops") {
      rlhi::check(value == "test" || value == "grad" || value == "perf", rlhi::ErrorCode::invalid_argument, "--ops: expected test, grad or perf, found ", value);
      a.ops = value;
    }
  }
  if (a.emulated && a.filters.empty() && a.ops.empty()) a.filters = kEmulatedSelection;
  return a;
}

int run_tests(const Arguments& arguments) {
  const std::string prefix = arguments.ops.empty() ? "" : "ops " + arguments.ops + ": ";
  int passed = 0, failed = 0, skipped = 0;
  for (const auto& c : rlhi::test::cases()) {
    if (!c.name.starts_with(prefix) || !wanted(c.name, arguments.filters)) continue;
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

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = read_arguments(argc, argv);
    if (arguments.ops != "perf") return run_tests(arguments);
    rlhi::test::print_op_speeds(arguments.filters);
    return 0;
  } catch (const rlhi::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
