// cuda_kernels_bench: the kernels of native/ops/cuda on a GPU, without the engine around them. First whether attention on tensor
// cores agrees with the plain kernels, and to the bit with itself; then every kernel's time against its limit: bytes over the
// bandwidth of a large copy, or operations a second. Prints one line a measurement; exit code 1 where something disagreed.
#include <cmath>
#include <cstring>
#include <memory>

#include "bench.h"
#include "ops/cuda/attention_lists.h"
#include "ops/cuda/launch.h"

namespace {

using namespace bench;
namespace cuda = rlhi::ops::cuda;
using rlhi::ops::AttentionArgs;
using rlhi::ops::AttentionBackwardArgs;
using rlhi::ops::KeySpan;
using rlhi::ops::QuerySegment;
constexpr DType F = DType::f32, B = DType::bf16;
const cuda::Launch kAt;
bool failed = false;

void expect(bool ok, const std::string& what) {
  std::printf("%s  %s\n", ok ? "ok  " : "FAIL", what.c_str());
  failed = failed || !ok;
}

// ---- attention -------------------------------------------------------------------------------------------------------
struct Layout {
  std::vector<QuerySegment> segments;
  std::vector<KeySpan> spans;
  int32_t rows = 0, key_rows = 0;
  int add(int32_t length, int parent = -1) {
    QuerySegment s{rows, length, 0, static_cast<int32_t>(spans.size()), 0};
    if (parent >= 0) {
      const QuerySegment p = segments[static_cast<size_t>(parent)];
      for (int i = 0; i < p.n_spans; ++i) spans.push_back(spans[static_cast<size_t>(p.first_span + i)]);
      s.position = p.position + p.length;
    }
    spans.push_back({rows, length, s.position});
    s.n_spans = static_cast<int32_t>(spans.size()) - s.first_span;
    segments.push_back(s);
    key_rows = rows += length;
    return static_cast<int>(segments.size()) - 1;
  }
};

// One call of attention with its tensors and lists on the device.
struct Attention {
  Attention(const Layout& t, int heads, int kv_heads, int dim, int window, DType type)
      : layout(t), q(t.rows, heads * dim, type, 1), k(t.key_rows, kv_heads * dim, type, 2), v(t.key_rows, kv_heads * dim, type, 3),
        dout(t.rows, heads * dim, type, 4), out(t.rows, heads * dim, type, 0), lse(t.rows, heads, F, 0), dq(t.rows, heads * dim, type, 0),
        dk(t.key_rows, kv_heads * dim, type, 0), dv(t.key_rows, kv_heads * dim, type, 0), segments(t.segments), spans(t.spans) {
    AttentionArgs& a = args.forward;
    a.n_heads = heads, a.n_kv_heads = kv_heads, a.head_dim = dim, a.window = window, a.scale = 1 / std::sqrt(static_cast<float>(dim));
    a.q = q.view, a.k = k.view, a.v = v.view, a.out = out.view, a.lse = lse.view;
    a.segments = t.segments.data(), a.n_segments = static_cast<int64_t>(t.segments.size());
    a.spans = t.spans.data(), a.n_spans = static_cast<int64_t>(t.spans.size());
    args.dout = dout.view, args.dq = dq.view, args.dk = dk.view, args.dv = dv.view;
  }
  void prepare(bool decode) {
    plan = cuda::plan_attention(args.forward), backward_plan = cuda::plan_attention_backward(args);
    plan.decode = plan.decode && decode;
    AttentionArgs& a = args.forward;
    a.segments = layout.segments.data(), a.spans = layout.spans.data();
    cuda::AttentionLists lists;
    const cuda::ForwardLists& f = lists.forward(a, plan);
    const cuda::BackwardLists* b = backward ? &lists.backward(a, backward_plan) : nullptr;
    a.segments = segments.as<QuerySegment>(), a.spans = spans.as<KeySpan>();
    forward_lists = f;
    tiles = std::make_unique<Uploaded<cuda::QueryTile>>(f.tiles);
    splits = std::make_unique<Uploaded<cuda::DecodeSplit>>(f.splits);
    decode_segments = std::make_unique<Uploaded<cuda::DecodeSegment>>(f.segments);
    scratch = std::make_unique<DeviceMemory>(std::max(cuda::attention_decode_scratch(a, f.n_blocks), cuda::attention_backward_scratch(args)));
    if (!b) return;
    query_tiles = std::make_unique<Uploaded<cuda::QueryTile>>(b->query_tiles);
    key_tiles = std::make_unique<Uploaded<cuda::KeyTile>>(b->key_tiles);
    visitors = std::make_unique<Uploaded<cuda::Visitor>>(b->visitors);
    backward_tiles = {query_tiles->as<cuda::QueryTile>(), static_cast<int64_t>(b->query_tiles.size()), key_tiles->as<cuda::KeyTile>(),
                      static_cast<int64_t>(b->key_tiles.size()), visitors->as<cuda::Visitor>()};
  }
  void run_forward() {
    const cuda::ForwardLists& f = forward_lists;
    cuda::attention(kAt, plan, args.forward, tiles->as<cuda::QueryTile>(), static_cast<int64_t>(f.tiles.size()));
    if (f.segments.empty()) return;
    cuda::attention_decode(kAt, args.forward, splits->as<cuda::DecodeSplit>(), static_cast<int64_t>(f.splits.size()),
                           decode_segments->as<cuda::DecodeSegment>(), static_cast<int64_t>(f.segments.size()), f.n_blocks, scratch->get());
  }
  void run_backward() { cuda::attention_backward(kAt, backward_plan, args, backward_tiles, scratch->get()); }

  Layout layout;
  DeviceTensor q, k, v, dout, out, lse, dq, dk, dv;
  Uploaded<QuerySegment> segments;
  Uploaded<KeySpan> spans;
  AttentionBackwardArgs args;
  bool backward = true;
  cuda::AttentionPlan plan, backward_plan;
  cuda::ForwardLists forward_lists;
  std::unique_ptr<Uploaded<cuda::QueryTile>> tiles, query_tiles;
  std::unique_ptr<Uploaded<cuda::DecodeSplit>> splits;
  std::unique_ptr<Uploaded<cuda::DecodeSegment>> decode_segments;
  std::unique_ptr<Uploaded<cuda::KeyTile>> key_tiles;
  std::unique_ptr<Uploaded<cuda::Visitor>> visitors;
  std::unique_ptr<DeviceMemory> scratch;
  cuda::BackwardTiles backward_tiles;
};

void check_attention(const Layout& t, int heads, int kv_heads, int dim, int window) {
  Attention fast(t, heads, kv_heads, dim, window, B), plain(t, heads, kv_heads, dim, window, F);
  for (auto [to, from] : {std::pair{&plain.q, &fast.q}, {&plain.k, &fast.k}, {&plain.v, &fast.v}, {&plain.dout, &fast.dout}}) {
    cuda::move_rows(kAt, to->view, nullptr, from->view, nullptr, to->view.rows);
  }
  for (Attention* a : {&fast, &plain}) {
    a->prepare(false);
    a->run_forward();
    a->run_backward();
  }
  check_cuda(cudaDeviceSynchronize(), "attention");
  const std::string name = rlhi::concat("attention dim ", dim, " heads ", heads, "/", kv_heads, " window ", window, " rows ", t.rows);
  const auto compare = [&](const DeviceTensor& a, const DeviceTensor& b, const char* what, double tolerance) {
    const double e = relative_error(a.floats(), b.floats());
    expect(e < tolerance, rlhi::concat(name, " ", what, ": relative error ", e));
  };
  compare(fast.out, plain.out, "out", 4e-3);
  compare(fast.lse, plain.lse, "lse", 1e-6);
  compare(fast.dq, plain.dq, "dq", 8e-3);
  compare(fast.dk, plain.dk, "dk", 8e-3);
  compare(fast.dv, plain.dv, "dv", 8e-3);
  const auto bits = [&] {
    std::vector<uint16_t> all;
    for (const DeviceTensor* m : {&fast.out, &fast.dq, &fast.dk, &fast.dv}) {
      const auto part = m->download<uint16_t>();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  };
  const auto first = bits();
  fast.run_forward();
  fast.run_backward();
  expect(bits() == first, name + " has the same bits when run again");
}

// Rows of a prompt and of decoding steps over it: the decoding kernels against the tiles' kernel.
void check_decode(int heads, int kv_heads, int dim) {
  Layout t;
  t.key_rows = 3000;
  for (int i = 0; i < 40; ++i) {
    const int position = 37 * i + 5;
    t.segments.push_back({i, 1, position, static_cast<int32_t>(t.spans.size()), 2});
    const int first = std::min(position + 1, 700);
    t.spans.push_back({11, first, 0});
    t.spans.push_back({900, position + 1 - first, first});
  }
  t.rows = 40;
  Attention decoded(t, heads, kv_heads, dim, 0, B), whole(t, heads, kv_heads, dim, 0, B);
  decoded.backward = whole.backward = false;
  decoded.prepare(true), whole.prepare(false);
  decoded.run_forward(), whole.run_forward();
  check_cuda(cudaDeviceSynchronize(), "decoding");
  const double e = relative_error(decoded.out.floats(), whole.out.floats());
  expect(e < 4e-3, rlhi::concat("decoding dim ", dim, ": relative error against tiles ", e));
  expect(decoded.out.download<uint16_t>() == whole.out.download<uint16_t>(), rlhi::concat("decoding dim ", dim, " has the bits of tiles"));
}

Layout causal(int length, int total) {
  Layout t;
  for (int i = 0; i < total / length; ++i) t.add(length);
  return t;
}

void time_attention(int heads, int kv_heads, int dim, int length, int total) {
  Attention a(causal(length, total), heads, kv_heads, dim, 0, B);
  a.prepare(false);
  const double flops = 2.0 * heads * dim * static_cast<double>(length) * total;  // forward, causal half
  const double forward = seconds_of([&] { a.run_forward(); }), backward = seconds_of([&] { a.run_backward(); });
  std::printf("attention d=%d %d/%d heads, %d x %d causal: forward %.3f ms %.0f TFLOP/s, backward %.3f ms %.0f TFLOP/s\n", dim, heads, kv_heads,
              total / length, length, forward * 1e3, flops / forward * 1e-12, backward * 1e3, 2.5 * flops / backward * 1e-12);
}

void time_pairs(int heads, int kv_heads, int dim, int pairs, int part) {
  Layout t;
  for (int i = 0; i < pairs; ++i) {
    const int p = t.add(part);
    t.add(part, p), t.add(part, p);
  }
  Attention a(t, heads, kv_heads, dim, 0, B);
  a.prepare(false);
  const double flops = 2.0 * heads * dim * pairs * 7.0 * part * part;  // P²/2 + 2 (PC + C²/2), times 4
  const double forward = seconds_of([&] { a.run_forward(); }), backward = seconds_of([&] { a.run_backward(); });
  std::printf("attention d=%d %d/%d heads, %d pairs of %d+%d+%d: forward %.3f ms %.0f TFLOP/s, backward %.3f ms %.0f TFLOP/s\n", dim, heads,
              kv_heads, pairs, part, part, part, forward * 1e3, flops / forward * 1e-12, backward * 1e3, 2.5 * flops / backward * 1e-12);
}

void time_decode(int heads, int kv_heads, int dim, int sequences, int length, double copy_rate) {
  Layout t;
  for (int i = 0; i < sequences; ++i) {
    t.segments.push_back({i, 1, length - 1, i, 1});
    t.spans.push_back({i * length, length, 0});
  }
  t.rows = sequences, t.key_rows = sequences * length;
  Attention a(t, heads, kv_heads, dim, 0, B);
  a.backward = false;
  a.prepare(true);
  const double seconds = seconds_of([&] { a.run_forward(); }), bytes = 4.0 * t.key_rows * kv_heads * dim;
  std::printf("decoding d=%d %d/%d heads, %d sequences of %d: %.3f ms, %.0f GB/s of keys and values, %.0f %% of copy\n", dim, heads, kv_heads,
              sequences, length, seconds * 1e3, bytes / seconds * 1e-9, 100 * bytes / seconds / copy_rate);
}

// ---- what memory bounds -----------------------------------------------------------------------------------------------
double copy_rate() {
  const size_t bytes = size_t{1} << 30;
  DeviceMemory a(bytes), b(bytes);
  const double s = seconds_of([&] { check_cuda(cudaMemcpyAsync(b.get(), a.get(), bytes, cudaMemcpyDeviceToDevice), "copy"); });
  std::printf("copy of 1 GiB: %.0f GB/s read and written\n", 2e-9 * static_cast<double>(bytes) / s);
  return 2 * static_cast<double>(bytes) / s;
}

void time_rows(double rate) {
  const auto line = [&](const char* name, double bytes, const std::function<void()>& f) {
    const double s = seconds_of(f);
    std::printf("%-52s %8.1f us  %5.0f GB/s  %3.0f %% of copy\n", name, s * 1e6, bytes / s * 1e-9, 100 * bytes / s / rate);
  };
  const int64_t t = 16384, d = 4096, f = 14336;
  const double td = static_cast<double>(t * d), tf = static_cast<double>(t * f);
  DeviceTensor x(t, d, F, 1), narrow(t, d, B, 2), other(t, d, B, 3), third(t, d, B, 4), weight(1, d, B, 5), rstd(t, 1, F, 6), dweight(1, d, F, 7);
  line("copy f32 to bf16 [16384, 4096]", 6 * td, [&] { cuda::move_rows(kAt, narrow.view, nullptr, x.view, nullptr, t); });
  line("add bf16 to f32 [16384, 4096]", 10 * td, [&] { cuda::add(kAt, x.view, narrow.view); });
  line("rms_norm f32 to bf16, with a bf16 copy", 8 * td, [&] { cuda::rms_norm(kAt, other.view, x.view, weight.view, 1e-5f, 1, rstd.view, third.view); });
  line("rms_norm bf16 to bf16", 4 * td, [&] { cuda::rms_norm(kAt, other.view, narrow.view, weight.view, 1e-5f, 1, rstd.view, Tensor()); });
  DeviceMemory scratch(std::max(cuda::rms_norm_backward_scratch(t, d, 32), std::max(cuda::rms_norm_backward_scratch(t, d, 1), cuda::column_sum_scratch(t, d))));
  line("rms_norm_backward, dx f32 accumulated, dweight", 12 * td, [&] {
    cuda::rms_norm_backward(kAt, x.view, dweight.view, other.view, third.view, weight.view, rstd.view, 1, true, scratch.get());
  });
  {
    const int64_t narrow_cols = 576, rows = 16384;
    const double elements = static_cast<double>(rows * narrow_cols);
    const auto part = [&](const DeviceTensor& whole) { return Tensor(whole.get(), whole.view.dtype, rows, narrow_cols); };
    const Tensor w(weight.get(), B, 1, narrow_cols), dw(dweight.get(), F, 1, narrow_cols);
    line("rms_norm f32 to bf16 [16384, 576], with a copy", 8 * elements, [&] {
      cuda::rms_norm(kAt, part(other), part(x), w, 1e-5f, 1, rstd.view, part(third));
    });
    line("rms_norm_backward [16384, 576], as above", 12 * elements, [&] {
      cuda::rms_norm_backward(kAt, part(x), dw, part(other), part(third), w, rstd.view, 1, true, scratch.get());
    });
  }
  DeviceTensor head_weight(1, 128, B, 8), head_rstd(t, 32, F, 9), head_dweight(1, 128, F, 10);
  line("rms_norm of 32 heads of 128, in place", 4 * td, [&] { cuda::rms_norm(kAt, other.view, other.view, head_weight.view, 1e-5f, 32, head_rstd.view, Tensor()); });
  line("rms_norm_backward of 32 heads of 128, dweight", 6 * td, [&] {
    cuda::rms_norm_backward(kAt, other.view, head_dweight.view, other.view, third.view, head_weight.view, head_rstd.view, 32, false, scratch.get());
  });
  line("column_sum bf16", 2 * td, [&] { cuda::column_sum(kAt, dweight.view, other.view, scratch.get()); });
  DeviceTensor angles(8192, 128, F, 11);
  std::vector<int32_t> positions(static_cast<size_t>(t)), ids(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i % 4096), ids[i] = static_cast<int32_t>(i * 7919 % 128256);
  Uploaded<int32_t> at(positions), id(ids);
  line("rope of 32 heads of 128", 4 * td, [&] { cuda::rope(kAt, narrow.view, 128, angles.view, at.as<int32_t>(), 1); });
  {
    DeviceTensor table(128256, d, B, 12);
    line("embedding bf16 to f32", 6 * td, [&] { cuda::move_rows(kAt, x.view, nullptr, table.view, id.as<int32_t>(), t); });
  }
  {
    DeviceTensor gate_up(t, 2 * f, B, 13), act(t, f, B, 14);
    line("swiglu [16384, 14336]", 6 * tf, [&] { cuda::swiglu(kAt, act.view, gate_up.view); });
    line("swiglu_backward, in place", 10 * tf, [&] { cuda::swiglu_backward(kAt, gate_up.view, act.view, gate_up.view); });
  }
  {
    const int64_t n = 2048, vocab = 128256;
    const double nv = static_cast<double>(n * vocab);
    DeviceTensor logits(n, vocab, F, 15);
    DeviceMemory statistics(static_cast<size_t>(n) * sizeof(cuda::HeadStatistics)), logps(static_cast<size_t>(n) * 4), lse(static_cast<size_t>(n) * 4);
    DeviceTensor dlogps(1, n, F, 16);
    line("logprob_statistics [2048, 128256] f32", 4 * nv, [&] {
      cuda::logprob_statistics(kAt, logits.view, 0, id.as<int32_t>(), statistics.as<cuda::HeadStatistics>());
    });
    cuda::logprob_finish(kAt, statistics.as<cuda::HeadStatistics>(), n, logps.as<float>(), lse.as<float>());
    const Tensor over(logits.get(), B, n, vocab, 2 * vocab);
    line("logprob_gradient, bf16 over f32", 6 * nv, [&] {
      cuda::logprob_gradient(kAt, over, logits.view, 0, id.as<int32_t>(), lse.as<float>(), dlogps.as<float>());
    });
  }
  {
    const int64_t n = 400'000'000;
    DeviceTensor w(1, n, B, 17), g(1, n, F, 18), m(1, n, F, 19), v(1, n, F, 20);
    DeviceMemory low(static_cast<size_t>(n) * 2), squares(cuda::sum_of_squares_scratch(n)), result(8);
    check_cuda(cudaMemset(low.get(), 0, static_cast<size_t>(n) * 2), "cudaMemset");
    check_cuda(cudaMemset(v.get(), 0, static_cast<size_t>(n) * 4), "cudaMemset");
    rlhi::ops::AdamWArgs a;
    a.n = n, a.dtype = B, a.weight = w.get(), a.remainder = low.as<int16_t>(), a.grad = g.as<float>(), a.m = m.as<float>(), a.v = v.as<float>();
    a.lr = 1e-6, a.weight_decay = 0.1, a.bias_correction1 = 0.1, a.bias_correction2 = 0.05;
    line("adamw of 400 M, split master", 28.0 * static_cast<double>(n), [&] { cuda::adamw(kAt, a); });
    line("sum_of_squares of 400 M", 4.0 * static_cast<double>(n), [&] { cuda::sum_of_squares(kAt, g.as<float>(), n, squares.get(), result.as<double>()); });
  }
}

bool wanted(int argc, char** argv, const char* stage) {
  if (argc < 2) return true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], stage) == 0) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    cudaDeviceProp device;
    check_cuda(cudaGetDeviceProperties(&device, 0), "device");
    std::printf("%s, sm_%d%d, %d multiprocessors\n", device.name, device.major, device.minor, device.multiProcessorCount);
    if (wanted(argc, argv, "check")) {
      Layout tree;
      const int p = tree.add(300);
      tree.add(1, p), tree.add(257, p), tree.add(64, p);
      const int other = tree.add(77);
      tree.add(130, other);
      for (const int dim : {64, 96, 128}) {
        for (const int window : {0, 100}) check_attention(tree, 8, 2, dim, window);
        check_decode(8, 2, dim);
      }
      check_decode(40, 2, 128);
    }
    const double rate = copy_rate();
    if (wanted(argc, argv, "rows")) time_rows(rate);
    if (argc > 1 && wanted(argc, argv, "long")) time_attention(32, 8, 128, 8192, 16384);  // alone, for a profiler
    if (wanted(argc, argv, "attention")) {
      for (const int length : {512, 2048, 4096, 8192}) time_attention(32, 8, 128, length, 16384);
      for (const int length : {512, 2048, 8192}) time_attention(32, 8, 64, length, 16384);
      time_pairs(32, 8, 128, 21, 256);
      time_pairs(9, 3, 64, 21, 256);
      time_decode(32, 8, 128, 64, 2048, rate);
      time_decode(32, 8, 128, 8, 8192, rate);
    }
  } catch (const std::exception& e) {
    std::printf("FAIL  %s\n", e.what());
    return 1;
  }
  return failed ? 1 : 0;
}
