// Products at the models' own shapes against the best large one of the same run; and whether a row's bits are its own.
#include <cstring>

#include "bench/measure.h"

namespace rlhi::bench {
namespace {

using ops::GemmArgs;
using ops::GemmForm;

double tflops(const Bench& b, const GemmArgs& g, int64_t m, int64_t n, int64_t k, int repeats = 20) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / b.milliseconds([&] { b.ops.gemm(b.backend, g); }, repeats) / 1e9;
}

GemmArgs args_of(GemmForm form, const Tensor& a, const Tensor& w, const Tensor& c, bool accumulate) {
  GemmArgs g;
  g.form = form, g.a = a, g.b = w, g.c = c, g.accumulate = accumulate;
  return g;
}

// One weight [n, k] of a layer, in all the products of a training step on T tokens.
void one_weight(const Bench& b, const std::string& name, int64_t t, int64_t n, int64_t k, DType out, double peak) {
  const RandomMatrix x(b, DType::bf16, t, k), w(b, DType::bf16, n, k, 0.02), dy(b, DType::bf16, t, n);
  const RandomMatrix y(b, out, t, n, 0), dx(b, DType::f32, t, k, 0), dw(b, DType::f32, n, k, 0);
  const double forward = tflops(b, args_of(GemmForm::nt, x.tensor(), w.tensor(), y.tensor(), out == DType::f32), t, n, k);
  const double input = tflops(b, args_of(GemmForm::nn, dy.tensor(), w.tensor(), dx.tensor(), false), t, k, n);
  const double weight = tflops(b, args_of(GemmForm::tn, dy.tensor(), x.tensor(), dw.tensor(), true), n, k, t);
  b.report.add("gemm", name, {{"tokens", t}, {"n", n}, {"k", k}, {"y_tflops", forward}, {"dx_tflops", input}, {"dw_tflops", weight},
                              {"y_share", forward / peak}, {"dx_share", input / peak}, {"dw_share", weight / peak}});
}

// The first rows of products of other numbers of rows, against those of the largest.
void check_rows(const Bench& b, int64_t n, int64_t k) {
  constexpr int64_t kMost = 4096;
  const RandomMatrix x(b, DType::bf16, kMost, k), w(b, DType::bf16, n, k, 0.02), y(b, DType::f32, kMost, n, 0);
  const auto rows_of = [&](int64_t m, int64_t first) {
    b.ops.gemm(b.backend, args_of(GemmForm::nt, x.tensor().row_range(first, m), w.tensor(), y.tensor().row_range(0, m), false));
    std::vector<float> rows(static_cast<size_t>(std::min<int64_t>(m, 64) * n));
    b.ops.download(b.backend, rows.data(), y.tensor().data, rows.size() * sizeof(float));
    return rows;
  };
  const std::vector<float> all = rows_of(kMost, 0), from_333 = rows_of(kMost - 333, 333);
  double different = 0, checked = 0;
  for (const int64_t m : {1, 2, 3, 8, 17, 64, 65, 127, 128, 129, 300, 1000, 2047}) {
    const std::vector<float> a = rows_of(m, 0), c = rows_of(m, 333);
    different += std::memcmp(a.data(), all.data(), a.size() * sizeof(float)) != 0;
    different += std::memcmp(c.data(), from_333.data(), c.size() * sizeof(float)) != 0;
    checked += 2;
  }
  b.report.add("gemm", concat("rows keep their bits, n ", n, " k ", k), {{"checked", checked}, {"different", different}});
}

// One weight [n, k] times few rows, as decoding does: several such weights in turn, so that none is still in the L2 cache.
void few_rows(const Bench& b, const std::string& name, int64_t rows, int64_t n, int64_t k, DType out, bool accumulate, bool gates, double copy) {
  constexpr int kTurns = 16;
  const int64_t bytes = n * k * 2, weights = std::max<int64_t>(2, (int64_t{256} << 20) / bytes);
  const RandomMatrix x(b, DType::bf16, rows, k), w(b, DType::bf16, weights * n, k, 0.02), y(b, out, rows, gates ? n / 2 : n, 0);
  const double ms = b.milliseconds([&] {
    for (int i = 0; i < kTurns; ++i) {
      GemmArgs g = args_of(GemmForm::nt, x.tensor(), w.tensor().row_range(i % weights * n, n), y.tensor(), accumulate);
      g.swiglu_c = gates;
      b.ops.gemm(b.backend, g);
    }
  });
  const double us = 1e3 * ms / kTurns, gb_per_s = static_cast<double>(bytes) / us / 1e3;
  b.report.add("few-rows", concat(name, ", ", rows, " rows"), {{"us", us}, {"gb_per_s", gb_per_s}, {"share_of_copy", gb_per_s / copy}});
}

}  // namespace

void measure_few_rows(const Bench& b) {
  const double copy = copy_bandwidth(b);
  for (const int64_t rows : {1, 8, 32, 64, 128}) {
    few_rows(b, "8b qkv", rows, 6144, 4096, DType::bf16, false, false, copy);
    few_rows(b, "8b o", rows, 4096, 4096, DType::f32, true, false, copy);
    few_rows(b, "8b gate_up and SwiGLU", rows, 28672, 4096, DType::bf16, false, true, copy);
    few_rows(b, "8b down", rows, 4096, 14336, DType::f32, true, false, copy);
    few_rows(b, "8b head", rows, 128256, 4096, DType::f32, false, false, copy);
  }
  for (const int64_t rows : {1, 64}) {
    few_rows(b, "135m qkv", rows, 960, 576, DType::bf16, false, false, copy);
    few_rows(b, "135m o", rows, 576, 576, DType::f32, true, false, copy);
    few_rows(b, "135m gate_up and SwiGLU", rows, 3072, 576, DType::bf16, false, true, copy);
    few_rows(b, "135m down", rows, 576, 1536, DType::f32, true, false, copy);
    few_rows(b, "135m head", rows, 49152, 576, DType::f32, false, false, copy);
  }
}

double best_product_tflops(const Bench& b) {
  double best = 0;
  for (const int64_t side : {4096, 8192}) {
    const RandomMatrix x(b, DType::bf16, side, side), w(b, DType::bf16, side, side), y(b, DType::bf16, side, side, 0);
    best = std::max(best, tflops(b, args_of(GemmForm::nt, x.tensor(), w.tensor(), y.tensor(), false), side, side, side));
  }
  return best;
}

void measure_gemm(const Bench& b) {
  const double peak = best_product_tflops(b);
  b.report.add("gemm", "best large bf16 product", {{"tflops", peak}});
  struct Weight {
    const char* name;
    int64_t t, n, k;
    DType out;
  };
  for (const Weight& w : {Weight{"8b qkv", 8192, 6144, 4096, DType::bf16}, {"8b o", 8192, 4096, 4096, DType::f32}, {"8b gate_up", 8192, 28672, 4096, DType::bf16},
                          {"8b down", 8192, 4096, 14336, DType::f32}, {"8b head piece", 2048, 8192, 4096, DType::f32},
                          {"1b gate_up", 8192, 16384, 2048, DType::bf16}, {"1b down", 8192, 2048, 8192, DType::f32},
                          {"135m qkv", 8192, 960, 576, DType::bf16}, {"135m o", 8192, 576, 576, DType::f32}, {"135m gate_up", 8192, 3072, 576, DType::bf16},
                          {"135m down", 8192, 576, 1536, DType::f32}, {"8b gate_up, decoding", 64, 28672, 4096, DType::bf16}, {"8b down, decoding", 64, 4096, 14336, DType::f32}})
    one_weight(b, w.name, w.t, w.n, w.k, w.out, peak);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{6144, 4096}, {4096, 14336}, {28672, 4096}, {8192, 4096}, {960, 576}, {576, 1536}, {3072, 576}}) check_rows(b, n, k);
}

}  // namespace rlhi::bench
