// The thread pool, the choice of instruction set, the exponential all softmaxes rest on, and the measured peaks.
#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/thread_pool.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/peak.h"
#include "ops/operation_cost.h"
#include "test/attention_layout.h"
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

TEST("thread pool: every task runs once, over many loops of many sizes") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int round = 0; round < 300; ++round) {
      const int64_t tasks = round % 41;
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<bool> bad_thread{false};
      pool.parallel_for(tasks, [&](int64_t task, int thread) {
        runs[static_cast<size_t>(task)].fetch_add(1);
        if (thread < 0 || thread >= threads) bad_thread = true;
      });
      for (const auto& r : runs) EXPECT_EQ(r.load(), 1);
      EXPECT(!bad_thread);
    }
  }
}

TEST("thread pool: work is shared, and sleeping workers come back") {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> together{0};
    std::atomic<bool> met{false};
    pool.parallel_for(2, [&](int64_t, int) {  // both tasks must be running at once to leave before the deadline
      together.fetch_add(1);
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (together.load() < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      if (together.load() == 2) met = true;
    });
    EXPECT(met);
  }
}

TEST("thread pool: the first exception reaches the caller and the pool goes on") {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      EXPECT_ERROR(pool.parallel_for(100, [](int64_t task, int) { check(task != 37, ErrorCode::io, "task ", task, " failed"); }),
                   ErrorCode::io,
                   "task 37 failed");
      std::atomic<int64_t> sum{0};
      pool.parallel_for(100, [&](int64_t task, int) { sum.fetch_add(task); });
      EXPECT_EQ(sum.load(), 4950);
    }
  }
  EXPECT_ERROR(ThreadPool(0), ErrorCode::invalid_argument, "at least 1 thread");
}

TEST("thread pool: two pools on two threads do not disturb each other") {
  std::atomic<int64_t> sums[2] = {0, 0};
  const auto work = [&](int which) {
    ThreadPool pool(3);
    for (int round = 0; round < 200; ++round) {
      pool.parallel_for(20, [&](int64_t task, int) { sums[which].fetch_add(task + which); });
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  EXPECT_EQ(sums[0].load(), 200 * 190);
  EXPECT_EQ(sums[1].load(), 200 * 210);
}

TEST("cpu: the instruction set can be chosen by environment, and a wrong name says what can run") {
  const char* before = std::getenv("RLHI_CPU_ISA");
  const std::string kept = before ? before : "";
  setenv("RLHI_CPU_ISA", "portable", 1);
  EXPECT(ops::default_isa() == ops::CpuIsa::portable);
  EXPECT_EQ(std::string(ops::CpuBackend().table().backend_name), std::string("cpu/portable"));
  setenv("RLHI_CPU_ISA", "avx9", 1);
  EXPECT_ERROR(ops::default_isa(), ErrorCode::invalid_argument, "portable");
  if (before) setenv("RLHI_CPU_ISA", kept.c_str(), 1);
  else unsetenv("RLHI_CPU_ISA");
  EXPECT(ops::available_isas().front() == ops::CpuIsa::portable);
  EXPECT(ops::cpu_features().logical_cores >= 1);
}

TEST("cpu: a backend has the threads asked for, aligned zeroed memory, and the table's version") {
  ops::CpuBackendOptions options;
  options.threads = 3;
  ops::CpuBackend backend(options);
  EXPECT_EQ(backend.threads(), 3);
  EXPECT_EQ(backend.table().abi_version, ops::kAbiVersion);
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{9} << 20}) {
    auto* p = static_cast<char*>(backend.table().alloc(backend.handle(), bytes));
    EXPECT(p != nullptr && reinterpret_cast<uintptr_t>(p) % 64 == 0);
    for (size_t i = 0; i < bytes; ++i) {
      if (p[i] != 0) throw std::runtime_error(concat("byte ", i, " is not zero"));
    }
    p[bytes - 1] = 1;
    backend.table().zero(backend.handle(), p, bytes);
    EXPECT_EQ(p[bytes - 1], 0);
    backend.table().release(backend.handle(), p, bytes);
  }
  options.threads = -1;
  EXPECT_ERROR(ops::CpuBackend(options), ErrorCode::invalid_argument, "threads is -1");
}

TEST("cpu: the exponential is right to 2 units in the last place, from underflow to 1 and at infinity") {
  for (const ops::Kernels* kernels : {ops::portable_kernels(), ops::avx2_kernels(), ops::avx512_kernels()}) {
    bool runs = false;
    for (const ops::CpuIsa isa : ops::available_isas()) runs = runs || (kernels && std::string(kernels->name) == ops::isa_name(isa));
    if (!runs) continue;
    float row[32];
    const auto exponential = [&](float x) {
      for (float& r : row) r = x;
      return kernels->row_sum_exp(row, 1, 0.0f);
    };
    double worst = 0;
    for (int i = 0; i <= 200'000; ++i) {
      const float x = -87.3f + static_cast<float>(i) * (175.9f / 200'000);
      const double expected = std::exp(static_cast<double>(x));
      worst = std::max(worst, std::abs(static_cast<double>(exponential(x)) - expected) / expected);
    }
    expect_close(worst, 0, 2.4e-7, kernels->name);
    EXPECT_EQ(exponential(0.0f), 1.0f);
    EXPECT_EQ(exponential(-INFINITY), 0.0f);
    EXPECT_EQ(exponential(-200.0f), 0.0f);
    EXPECT_EQ(exponential(INFINITY), INFINITY);
    EXPECT_EQ(exponential(100.0f), INFINITY);
    EXPECT(std::isnan(exponential(NAN)));
  }
}

TEST("cost: an operation needs each tensor once, what it adds to twice, and of gathered ones the rows used") {
  float memory[1];
  const auto tensor = [&](DType dtype, int64_t rows, int64_t cols) { return Tensor(memory, dtype, rows, cols); };
  const auto expect = [](const auto& call, double flops, double bytes) {
    const ops::OperationCost cost = ops::cost_of_calls(call);
    EXPECT_EQ(cost.flops, flops);
    EXPECT_EQ(cost.bytes, bytes);
  };
  ops::GemmArgs g;
  g.a = tensor(DType::bf16, 5, 7), g.b = tensor(DType::f32, 11, 7), g.c = tensor(DType::f32, 5, 11), g.accumulate = true;
  expect([&](const auto& ops, auto* b) { ops.gemm(b, g); }, 2 * 5 * 7 * 11, 2 * 35 + 4 * 77 + 2 * 4 * 55);
  const int32_t ids[3] = {};
  expect([&](const auto& ops, auto* b) { ops.embedding(b, tensor(DType::f32, 3, 8), tensor(DType::bf16, 1000, 8), ids); }, 0, 24 * 6);
  expect([&](const auto& ops, auto* b) { ops.add(b, tensor(DType::f32, 3, 8), tensor(DType::bf16, 3, 8)); }, 0, 24 * 10);
  // A prompt of 3 sees 1 + 2 + 3 keys, each of two answers after it 4 + 5; keys of 7 rows.
  const Layout t = pair_of(3, 2, 2);
  ops::AttentionArgs a;
  a.n_heads = 4, a.n_kv_heads = 2, a.head_dim = 8;
  a.q = a.out = tensor(DType::bf16, 7, 32), a.k = a.v = tensor(DType::bf16, 500, 16);
  a.segments = t.segments.data(), a.n_segments = 3, a.spans = t.spans.data(), a.n_spans = static_cast<int64_t>(t.spans.size());
  const double pairs = 6 + 2 * (4 + 5);
  expect([&](const auto& ops, auto* b) { ops.attention(b, a); }, 4 * pairs * 4 * 8, 2 * 2 * 7 * 32 + 2 * 2 * 7 * 16);
}

TEST("cpu: measured peaks are of this world") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double peak = ops::measure_matrix_peak(dtype, ops::default_isa(), 1);
    EXPECT(peak > 1e8 && peak < 1e14);
  }
  const double bandwidth = ops::measure_read_bandwidth(1);
  EXPECT(bandwidth > 1e7 && bandwidth < 1e13);
}

}  // namespace
}  // namespace rlhi::test
