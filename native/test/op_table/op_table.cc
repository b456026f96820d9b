#include "test/op_table/op_table.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>

#include "ops/cpu/peak.h"
#include "ops/operation_cost.h"

namespace rlhi::test {
namespace {

using C = OpCases;

// Every operation has its line; "memory" is all of it that moves or orders bytes, from alloc to zero, "pack_weight" packed_bytes too.
const OpEntry kTable[] = {
    {"memory", C::memory_edges, C::memory_model},
    {"copy", C::copy_edges, C::copy_model},
    {"gather_rows", C::gather_edges, C::gather_model},
    {"scatter_rows", C::scatter_edges, C::scatter_model},
    {"scatter_add_rows", C::scatter_add_edges, C::scatter_add_model, C::scatter_add_gradient},
    {"add", C::add_edges, C::add_model},
    {"column_sum", C::column_sum_edges, C::column_sum_model, C::column_sum_gradient},
    {"pack_weight", C::pack_edges, C::pack_model},
    {"gemm", C::gemm_edges, C::gemm_model, C::gemm_gradient},
    {"embedding", C::embedding_edges, C::embedding_model},
    {"rms_norm", C::rms_norm_edges, C::rms_norm_model},
    {"rms_norm_backward", C::rms_norm_backward_edges, C::rms_norm_backward_model, C::rms_norm_gradient},
    {"rope", C::rope_edges, C::rope_model, C::rope_gradient},
    {"attention", C::attention_edges, C::attention_model},
    {"attention_backward", C::attention_backward_edges, C::attention_backward_model, C::attention_gradient},
    {"swiglu", C::swiglu_edges, C::swiglu_model},
    {"swiglu_backward", C::swiglu_backward_edges, C::swiglu_backward_model, C::swiglu_gradient},
    {"linear_logprob", C::logprob_edges, C::logprob_model},
    {"linear_logprob_backward", C::logprob_backward_edges, C::logprob_backward_model, C::logprob_gradient},
    {"preference_loss", C::loss_edges, C::loss_model, C::loss_gradient},
    {"choose_tokens", C::choose_edges, C::choose_model},
    {"adamw", C::adamw_edges, C::adamw_model},
    {"sum_of_squares", C::sum_of_squares_edges, C::sum_of_squares_model},
    {"clip_factor", C::clip_factor_edges, C::clip_factor_model},
};
// One pointer of the table a line, but for eleven of memory's twelve, packed_bytes, keeps_logits and repeated.
static_assert(sizeof(ops::Table) == offsetof(ops::Table, alloc) + (std::size(kTable) + 14) * sizeof(void*),
              "an operation of ops.h has no entry in the table of operation tests");

// On a device that is not the CPU some of the edges: emulated kernels are slow.
std::vector<OpCaseMaker> cases_here(const OpEntry& entry) {
  std::vector<OpCaseMaker> all = entry.edges();
  constexpr size_t kOnDevice = 16;
  if (on_cpu() || all.size() <= kOnDevice) return all;
  std::vector<OpCaseMaker> some;
  for (size_t i = 0; i < kOnDevice; ++i) some.push_back(all[i * all.size() / kOnDevice]);
  return some;
}

void check_values(const OpEntry& entry) {
  const std::vector<OpCaseMaker> all = cases_here(entry);
  for (const OpCaseMaker& one : all) {
    const std::unique_ptr<OpCase> c = one.make();
    try {
      on_every_backend([&](const ops::Table& ops, ops::Backend* backend) {
        c->prepare(ops, backend);
        c->call(ops, backend);
        c->check(ops, backend);
      });
    } catch (const std::exception& e) {
      throw std::runtime_error(concat(one.what, ": ", e.what()));
    }
  }
  std::printf("      %zu cases on %zu backends\n", all.size(), every_backend().size());
}

const bool kRegistered = [] {
  for (const OpEntry& entry : kTable) {
    cases().push_back({concat("ops test: ", entry.operation), [&entry] { check_values(entry); }});
    if (entry.gradient) cases().push_back({concat("ops grad: ", entry.operation), entry.gradient});
  }
  return true;
}();

double seconds_of(OpCase& c, const OpsBackend& backend) {
  constexpr double kEnough = 0.2;
  std::vector<double> seconds;
  c.prepare(backend.table(), backend.handle());
  c.call(backend.table(), backend.handle());        // warm
  for (double total = 0; seconds.size() < 5 || (total < kEnough && seconds.size() < 100);) {
    const auto begin = std::chrono::steady_clock::now();
    c.call(backend.table(), backend.handle());
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

bool contains(const std::string& name, const std::vector<std::string>& parts) {
  return parts.empty() ||
         std::any_of(parts.begin(), parts.end(), [&](const std::string& part) { return name.find(part) != std::string::npos; });
}

}  // namespace

const std::vector<OpEntry>& op_table() {
  static const std::vector<OpEntry> all(std::begin(kTable), std::end(kTable));
  return all;
}

void expect_gradient(const char* what, const Matrix& found, const Array& slopes, double tolerance) {
  expect_values(what, found, slopes, [&](int64_t i, int64_t j) { return tolerance * (1 + std::abs(slopes.at(i, j))); });
}

void print_op_speeds(const std::vector<std::string>& filters) {
  check(on_cpu(), ErrorCode::unsupported, "--ops perf measures the CPU; bench/check-cuda.sh measures a GPU");
  constexpr int kThreads = 0;
  const double bandwidth = ops::measure_read_bandwidth(kThreads);
  std::printf("read bandwidth %.1f GB/s\n", bandwidth / 1e9);
  for (const BackendChoice& choice : every_backend()) {
    const OpsBackend& backend = backend_of(choice, kThreads);
    const double f32 = ops::measure_matrix_peak(DType::f32, choice.isa, kThreads),
                 bf16 = ops::measure_matrix_peak(DType::bf16, choice.isa, kThreads);
    std::printf("%s: peak %.0f GFLOP/s f32, %.0f bf16\n", choice.name().c_str(), f32 / 1e9, bf16 / 1e9);
    for (const OpEntry& entry : kTable) {
      if (!contains(entry.operation, filters)) continue;
      for (const OpCaseMaker& one : entry.model()) {
        const std::unique_ptr<OpCase> c = one.make();
        const double seconds = seconds_of(*c, backend);
        const ops::OperationCost cost = ops::cost_of_calls([&](const ops::Table& ops, ops::Backend* handle) { c->call(ops, handle); });
        const double peak = one.what.find("bf16") == std::string::npos ? f32 : bf16;
        std::printf("  %-24s %-40s %10.1f us %8.1f GB/s (%3.0f %%) %10.1f GFLOP/s (%3.0f %%)\n", entry.operation, one.what.c_str(),
                    seconds * 1e6, cost.bytes / seconds / 1e9, cost.bytes / seconds / bandwidth * 100, cost.flops / seconds / 1e9,
                    cost.flops / seconds / peak * 100);
      }
    }
  }
}

}  // namespace rlhi::test
