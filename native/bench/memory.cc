// Operations that move memory, against the bandwidth of a copy in the same run. Bytes: each input read once, each output
// written once.
#include <cmath>

#include "bench/measure.h"

namespace rlhi::bench {
namespace {

void one(const Bench& b, const std::string& name, double bytes, double copy, const std::function<void()>& work) {
  const double ms = b.milliseconds(work);
  b.report.add("memory", name, {{"ms", ms}, {"gb_per_s", bytes / ms / 1e6}, {"share_of_copy", bytes / ms / 1e6 / copy}});
}

void rows(const Bench& b, double copy) {
  constexpr int64_t t = 16384, d = 4096, f = 14336;
  const double td = static_cast<double>(t * d), tf = static_cast<double>(t * f);
  const RandomMatrix x(b, DType::f32, t, d), half(b, DType::bf16, t, d), norm(b, DType::bf16, t, d, 0), kept(b, DType::bf16, t, d, 0), weight(b, DType::bf16, 1, d);
  const RandomMatrix rstd(b, DType::f32, t, 1, 0), dweight(b, DType::f32, 1, d, 0), gate_up(b, DType::bf16, t, 2 * f), act(b, DType::bf16, t, f, 0);
  const RandomMatrix table(b, DType::f32, 4096, 128), dy(b, DType::f32, t, d), words(b, DType::bf16, 128256, d);
  std::vector<int32_t> positions(t), ids(t);
  for (int64_t i = 0; i < t; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(i % 4096), ids[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % 128256);
  one(b, "rms_norm f32 to bf16, keeping x and rstd", 8 * td, copy, [&] {
    b.ops.rms_norm(b.backend, norm.tensor(), x.tensor(), weight.tensor(), 1e-5f, 1, rstd.tensor(), kept.tensor());
  });
  one(b, "rms_norm bf16 to bf16", 4 * td, copy, [&] { b.ops.rms_norm(b.backend, norm.tensor(), half.tensor(), weight.tensor(), 1e-5f, 1, Tensor(), Tensor()); });
  one(b, "rms_norm_backward, adding to f32", 14 * td, copy, [&] {
    b.ops.rms_norm_backward(b.backend, x.tensor(), dweight.tensor(), dy.tensor(), half.tensor(), weight.tensor(), rstd.tensor(), 1, true);
  });
  one(b, "rope in place, bf16", 4 * td, copy, [&] { b.ops.rope(b.backend, half.tensor(), 128, table.tensor(), positions.data(), 1); });
  one(b, "swiglu bf16", 6 * tf, copy, [&] { b.ops.swiglu(b.backend, act.tensor(), gate_up.tensor()); });
  one(b, "swiglu_backward in place, bf16", 12 * tf, copy, [&] {
    b.ops.swiglu_backward(b.backend, gate_up.tensor(), act.tensor(), gate_up.tensor(), act.tensor());
  });
  one(b, "embedding bf16 to f32", 6 * td, copy, [&] { b.ops.embedding(b.backend, x.tensor(), words.tensor(), ids.data()); });
  one(b, "copy f32 to bf16", 6 * td, copy, [&] { b.ops.copy(b.backend, half.tensor(), dy.tensor()); });
  one(b, "column_sum bf16", 2 * td, copy, [&] { b.ops.column_sum(b.backend, dweight.tensor(), half.tensor()); });
  one(b, "scatter_add_rows f32", 12 * td, copy, [&] { b.ops.scatter_add_rows(b.backend, x.tensor(), dy.tensor(), positions.data()); });
}

void optimizer(const Bench& b, double copy) {
  constexpr int64_t n = int64_t{1} << 29;
  const RandomMatrix weight(b, DType::bf16, 1, n, 0.02), remainder(b, DType::bf16, 1, n, 0), grad(b, DType::f32, 1, n, 1e-3), m(b, DType::f32, 1, n, 0),
      v(b, DType::f32, 1, n, 0);
  ops::AdamWArgs a;
  a.n = n, a.dtype = DType::bf16, a.weight = weight.tensor().data, a.remainder = static_cast<int16_t*>(remainder.tensor().data);
  a.grad = grad.tensor().data, a.m = m.tensor().data, a.v = v.tensor().data;
  a.lr = 1e-6, a.bias_correction1 = 0.1, a.bias_correction2 = 0.05;
  one(b, "adamw, bf16 weight and remainder", 28.0 * n, copy, [&] { b.ops.adamw(b.backend, a); });
  const HostBuffer host_m(b.ops, b.backend, n * sizeof(float), "first moments"), host_v(b.ops, b.backend, n * sizeof(float), "second moments");
  a.m = host_m.data(), a.v = host_v.data(), a.moments_on_host = true;
  const double ms = b.milliseconds([&] { b.ops.adamw(b.backend, a); }, 5, 1);
  b.report.add("memory", "adamw, its moments in host memory", {{"ms", ms}, {"gb_per_s_each_way", 8.0 * n / ms / 1e6}});
  const DeviceBuffer sum(b.ops, b.backend, sizeof(double), "a sum");
  one(b, "sum_of_squares f32", 4.0 * n, copy, [&] { b.ops.sum_of_squares(b.backend, grad.tensor(), static_cast<double*>(sum.data())); });
  one(b, "zero", 4.0 * n, copy, [&] { b.ops.zero(b.backend, m.tensor().data, n * sizeof(float)); });
}

}  // namespace

double copy_bandwidth(const Bench& b) {
  constexpr int64_t n = int64_t{1} << 29;
  const RandomMatrix from(b, DType::f32, 1, n), to(b, DType::f32, 1, n, 0);
  return 8.0 * n / b.milliseconds([&] { b.ops.copy(b.backend, to.tensor(), from.tensor()); }) / 1e6;
}

void measure_memory(const Bench& b) {
  const double copy = copy_bandwidth(b);
  b.report.add("memory", "copy, 2 GiB", {{"gb_per_s", copy}});
  rows(b, copy);
  optimizer(b, copy);
}

}  // namespace rlhi::bench
