// rlhi_cuda_bench STAGE [--device cuda[:N]] [--json FILE]: measures one stage (gemm, few-rows, attention, memory, train-135m, train-1b,
// train-8b, train-8b-compact, train-8b-host, generate-135m, generate-8b) and prints a line a result; FILE gets a JSON object a line.
#include <cstdio>

#include "bench/measure.h"

namespace rlhi::bench {
namespace {

bool run(const Bench& b, const std::string& stage) {
  if (stage == "gemm") return measure_gemm(b), true;
  if (stage == "few-rows") return measure_few_rows(b), true;
  if (stage == "attention") return measure_attention(b), true;
  if (stage == "memory") return measure_memory(b), true;
  if (stage == "train-135m") return measure_training(b, "smollm2-135m", 16384, 256, 4, 5), true;
  if (stage == "train-1b") return measure_training(b, "llama-3.2-1b", 12288, 512, 4, 3), true;
  if (stage == "train-8b") return measure_training(b, "llama-3.1-8b", 4608, 512, 8, 2), true;
  if (stage == "train-8b-compact") return measure_training(b, "llama-3.1-8b", 4608, 512, 8, 2, TrainMemory::compact), true;
  if (stage == "train-8b-host") return measure_training(b, "llama-3.1-8b", 4608, 512, 8, 2, TrainMemory::host_moments), true;
  if (stage == "generate-135m") return measure_generation(b, "smollm2-135m", 64, 256, 64), true;
  if (stage == "generate-8b") return measure_generation(b, "llama-3.1-8b", 64, 256, 64), true;
  return false;
}

}  // namespace
}  // namespace rlhi::bench

int main(int argc, char** argv) {
  std::string stage, device = "cuda", json;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--device" && i + 1 < argc) device = argv[++i];
    else if (argument == "--json" && i + 1 < argc) json = argv[++i];
    else stage = argument;
  }
  try {
    const auto opened = rlhi::ops::open_device({device});
    rlhi::bench::Report report(json);
    if (rlhi::bench::run({*opened, report}, stage)) return 0;
    std::fprintf(stderr, "no stage is called \"%s\"; see the head of native/bench/main.cc\n", stage.c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", stage.c_str(), e.what());
  }
  return 1;
}
