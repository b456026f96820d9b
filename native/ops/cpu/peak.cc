#include "ops/cpu/peak.h"

#include <algorithm>
#include <chrono>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int kRuns = 7;

// Median seconds of `run`.
template <class F>
double median_seconds(const F& run) {
  double seconds[kRuns];
  for (double& s : seconds) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::sort(seconds, seconds + kRuns);
  return seconds[kRuns / 2];
}

}  // namespace

double measure_matrix_peak(DType dtype, CpuIsa isa, int threads) {
  const Kernels& kernels = kernels_of(isa);
  const TileKernels* tiles = dtype == DType::bf16 ? tiles_of(isa) : nullptr;
  ThreadPool pool(threads > 0 ? threads : cpu_features().logical_cores);
  const int64_t steps = tiles ? 20'000 : 100'000;
  const int64_t tasks = 16 * pool.threads();
  std::vector<double> results(static_cast<size_t>(tasks));  // stored, so that no loop can be left out
  double flops = 0;
  const auto run = [&] {
    pool.parallel_for(tasks, [&](int64_t task, int) {
      double mine = 0;
      results[static_cast<size_t>(task)] = tiles ? tiles->peak_loop(steps, &mine) : kernels.fma_loop(steps, &mine);
      if (task == 0) flops = mine;
    });
  };
  run();  // wakes the threads and raises the clock
  const double seconds = median_seconds(run);
  return flops * static_cast<double>(tasks) / seconds;
}

double measure_read_bandwidth(int threads) {
  const Kernels& kernels = kernels_of(available_isas().back());
  ThreadPool pool(threads > 0 ? threads : cpu_features().logical_cores);
  constexpr int64_t kBytes = int64_t{256} << 20, kPiece = int64_t{1} << 20;
  Scratch memory;
  float* data = memory.floats(kBytes / 4);
  const int64_t tasks = kBytes / kPiece;
  std::vector<float> results(static_cast<size_t>(tasks));
  pool.parallel_for(tasks, [&](int64_t task, int) {
    std::fill(data + task * (kPiece / 4), data + (task + 1) * (kPiece / 4), static_cast<float>(task));
  });
  const double seconds = median_seconds([&] {
    pool.parallel_for(tasks, [&](int64_t task, int) {
      results[static_cast<size_t>(task)] = kernels.read_loop(data + task * (kPiece / 4), kPiece / 4);
    });
  });
  return static_cast<double>(kBytes) / seconds;
}

}  // namespace rlhi::ops
