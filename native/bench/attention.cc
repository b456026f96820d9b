// Attention, causal sequences and preference pairs, in the arithmetic that has to be done.
#include <cmath>
#include <cstdlib>

#include "bench/measure.h"
#include "model/transformer.h"

namespace rlhi::bench {
namespace {

struct Heads {
  int n, kv, dim;
};

// `trees` trees of a prompt and answers, by lengths.
void one_layout(const Bench& b, const std::string& name, const Heads& h, int trees, int64_t prompt, const std::vector<int64_t>& answers) {
  TreePacker packer;
  double pairs = 0;                              // of a query and a key it sees
  for (int i = 0; i < trees; ++i) {
    std::vector<std::vector<int32_t>> continuations;
    pairs += static_cast<double>(prompt) * static_cast<double>(prompt) / 2;
    for (const int64_t n : answers) {
      continuations.emplace_back(static_cast<size_t>(n) + 1, 1);
      pairs += static_cast<double>(n) * static_cast<double>(prompt) + static_cast<double>(n) * static_cast<double>(n) / 2;
    }
    packer.add_tree(std::vector<int32_t>(static_cast<size_t>(prompt), 1), continuations);
  }
  const PackedTokens tokens = packer.take();
  const int64_t t = tokens.size(), q_width = int64_t{h.n} * h.dim, kv_width = int64_t{h.kv} * h.dim;
  const RandomMatrix qkv(b, DType::bf16, t, q_width + 2 * kv_width), dout(b, DType::bf16, t, q_width);
  const RandomMatrix out(b, DType::bf16, t, q_width, 0), lse(b, DType::f32, t, h.n, 0), dqkv(b, DType::bf16, t, q_width + 2 * kv_width, 0);
  ops::AttentionBackwardArgs args;
  ops::AttentionArgs& f = args.forward;
  f.n_heads = h.n, f.n_kv_heads = h.kv, f.head_dim = h.dim, f.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h.dim)));
  f.q = qkv.tensor().col_range(0, q_width), f.k = qkv.tensor().col_range(q_width, kv_width), f.v = qkv.tensor().col_range(q_width + kv_width, kv_width);
  f.out = out.tensor(), f.lse = lse.tensor();
  f.segments = tokens.segments.data(), f.n_segments = static_cast<int64_t>(tokens.segments.size());
  f.spans = tokens.spans.data(), f.n_spans = static_cast<int64_t>(tokens.spans.size());
  args.dout = dout.tensor();
  args.dq = dqkv.tensor().col_range(0, q_width), args.dk = dqkv.tensor().col_range(q_width, kv_width), args.dv = dqkv.tensor().col_range(q_width + kv_width, kv_width);
  const double flops = 4 * pairs * h.n * h.dim;
  const double forward = b.milliseconds([&] { b.ops.attention(b.backend, f); }), backward = b.milliseconds([&] { b.ops.attention_backward(b.backend, args); });
  const char* const form = std::getenv("RLHI_CUDA_ATTENTION_BACKWARD");  // of the backward's kernels; none: as a trial chooses
  b.report.add("attention", form ? concat(name, ", backward ", form) : name,
               {{"tokens", static_cast<double>(t)}, {"forward_ms", forward}, {"backward_ms", backward},
                {"forward_tflops", flops / forward / 1e9}, {"backward_tflops", 2.5 * flops / backward / 1e9}});
}

}  // namespace

void measure_attention(const Bench& b) {
  const Heads large{32, 8, 128}, middle{32, 8, 64}, small{9, 3, 64};
  for (const int64_t length : {512, 2048, 4096, 8192})
    one_layout(b, concat("causal ", length, ", d 128, 32/8 heads"), large, static_cast<int>(16384 / length), length, {});
  for (const int64_t length : {512, 2048, 4096}) one_layout(b, concat("causal ", length, ", d 64, 32/8 heads"), middle, static_cast<int>(16384 / length), length, {});
  one_layout(b, "pairs 512+512+512, d 128", large, 8, 512, {512, 512});
  one_layout(b, "pairs 256+256+256, d 64, 9/3 heads", small, 16, 256, {256, 256});
}

}  // namespace rlhi::bench
