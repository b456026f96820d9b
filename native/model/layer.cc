#include "model/layer.h"

#include <cmath>

namespace rlhi {
namespace {

// y = x W^T (+ bias), or y += where accumulating into the f32 residual stream.
void linear(const LayerPass& p, Tensor y, Tensor x, Tensor w, const ops::PackedWeight* packed, Tensor bias, bool accumulate) {
  ops::GemmArgs g;
  g.form = ops::GemmForm::nt;
  g.a = x, g.b = w, g.c = y;
  g.packed_b = packed, g.bias = bias, g.accumulate = accumulate;
  p.ops.gemm(p.backend, g);
}

// dx = dy W
void linear_backward_input(const LayerPass& p, Tensor dx, Tensor dy, Tensor w) {
  ops::GemmArgs g;
  g.form = ops::GemmForm::nn;
  g.a = dy, g.b = w, g.c = dx;
  p.ops.gemm(p.backend, g);
}

// dW (+)= dy^T x
void linear_backward_weight(const LayerPass& p, Tensor dw, Tensor dy, Tensor x) {
  ops::GemmArgs g;
  g.form = ops::GemmForm::tn;
  g.a = dy, g.b = x, g.c = dw;
  g.accumulate = p.accumulate;
  p.ops.gemm(p.backend, g);
}

struct Qkv {
  Tensor q, k, v;
  Tensor qk, kv;             // neighbours, taken together
};
Qkv split_qkv(const ModelConfig& c, const Tensor& qkv) {
  const int64_t q = c.q_width(), kv = c.kv_width();
  return {qkv.col_range(0, q), qkv.col_range(q, kv), qkv.col_range(q + kv, kv), qkv.col_range(0, q + kv), qkv.col_range(q, 2 * kv)};
}

ops::AttentionArgs attention_args(const LayerPass& p, int64_t index, const LayerActivations& a) {
  const ModelConfig& c = p.config;
  const Qkv s = split_qkv(c, a.qkv);
  ops::AttentionArgs args;
  args.n_heads = static_cast<int>(c.n_heads), args.n_kv_heads = static_cast<int>(c.n_kv_heads),
      args.head_dim = static_cast<int>(c.head_dim);
  args.window = c.layer_window[static_cast<size_t>(index)];
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
  args.q = s.q;
  args.k = p.cache ? p.cache->k(index) : s.k;
  args.v = p.cache ? p.cache->v(index) : s.v;
  args.out = a.attn, args.lse = a.lse;
  args.segments = p.tokens.segments.data(), args.n_segments = static_cast<int64_t>(p.tokens.segments.size());
  args.spans = p.tokens.spans.data(), args.n_spans = static_cast<int64_t>(p.tokens.spans.size());
  return args;
}

// q and k: per-head norm (where the model has one), then rope, in place; new keys and values to the cache.
void finish_qkv(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerActivations& a) {
  const ModelConfig& c = p.config;
  const Qkv s = split_qkv(c, a.qkv);
  if (c.qk_norm) {
    const auto eps = static_cast<float>(c.rms_norm_eps);
    const Tensor q_raw = a.qk_raw ? a.qk_raw.col_range(0, c.q_width()) : Tensor();
    const Tensor k_raw = a.qk_raw ? a.qk_raw.col_range(c.q_width(), c.kv_width()) : Tensor();
    p.ops.rms_norm(p.backend, s.q, s.q, w.q_norm, eps, static_cast<int>(c.n_heads), a.rstd_q, q_raw);
    p.ops.rms_norm(p.backend, s.k, s.k, w.k_norm, eps, static_cast<int>(c.n_kv_heads), a.rstd_k, k_raw);
  }
  p.ops.rope(p.backend, s.qk, static_cast<int>(c.head_dim), p.rope, p.tokens.positions.data(), 1);
  if (p.cache) p.ops.scatter_rows(p.backend, p.cache->kv(index), s.kv, p.cache_rows);
}

// A norm's output: as it was kept, or from the residual x.
Tensor normed_again(const LayerPass& p, Tensor kept, Tensor x, Tensor norm, const WorkTensors& work) {
  if (kept) return kept;
  p.ops.rms_norm(p.backend, work.normed, x, norm, static_cast<float>(p.config.rms_norm_eps), 1, Tensor(), Tensor());
  return work.normed;
}

// work.x: dx after the MLP on entry, before it on return.
void mlp_backward(const LayerPass& p, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work, const LayerWeights& g) {
  p.ops.copy(p.backend, work.dy, work.x);
  const Tensor dact = work.act, dgate_up = a.gate_up;
  linear_backward_input(p, dact, work.dy, w.down);
  p.ops.swiglu_backward(p.backend, dgate_up, dact, a.gate_up, a.act ? Tensor() : work.act);
  linear_backward_weight(p, g.down, work.dy, a.act ? a.act : work.act);

  linear_backward_weight(p, g.gate_up, dgate_up, normed_again(p, a.normed_mlp, a.x_mlp, w.post_norm, work));
  linear_backward_input(p, work.dnormed, dgate_up, w.gate_up);
  p.ops.rms_norm_backward(p.backend, work.x, g.post_norm, work.dnormed, a.x_mlp, w.post_norm, a.rstd_mlp, 1, true);
}

// dq, dk of the rotated and normed q, k become those of the plain projections, in place.
void finish_qkv_backward(const LayerPass& p, const LayerWeights& w, const LayerActivations& a, const Qkv& d, const LayerWeights& g) {
  const ModelConfig& c = p.config;
  p.ops.rope(p.backend, d.qk, static_cast<int>(c.head_dim), p.rope, p.tokens.positions.data(), -1);
  if (!c.qk_norm) return;
  const Tensor q_raw = a.qk_raw.col_range(0, c.q_width()), k_raw = a.qk_raw.col_range(c.q_width(), c.kv_width());
  p.ops.rms_norm_backward(p.backend, d.q, g.q_norm, d.q, q_raw, w.q_norm, a.rstd_q, static_cast<int>(c.n_heads), false);
  p.ops.rms_norm_backward(p.backend, d.k, g.k_norm, d.k, k_raw, w.k_norm, a.rstd_k, static_cast<int>(c.n_kv_heads), false);
}

void attention_block_backward(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work,
                              const LayerWeights& g) {
  p.ops.copy(p.backend, work.dy, work.x);
  if (w.o_bias) p.ops.column_sum(p.backend, g.o_bias, work.dy);
  linear_backward_weight(p, g.o, work.dy, a.attn);
  linear_backward_input(p, work.dattn, work.dy, w.o);

  const Qkv d = split_qkv(p.config, work.dqkv);
  ops::AttentionBackwardArgs args;
  args.forward = attention_args(p, index, a);
  args.dout = work.dattn, args.dq = d.q, args.dk = d.k, args.dv = d.v;
  p.ops.attention_backward(p.backend, args);
  finish_qkv_backward(p, w, a, d, g);

  if (w.qkv_bias) p.ops.column_sum(p.backend, g.qkv_bias, work.dqkv);
  linear_backward_weight(p, g.qkv, work.dqkv, normed_again(p, a.normed_attn, a.x_attn, w.input_norm, work));
  linear_backward_input(p, work.dnormed, work.dqkv, w.qkv);
  p.ops.rms_norm_backward(p.backend, work.x, g.input_norm, work.dnormed, a.x_attn, w.input_norm, a.rstd_attn, 1, true);
}

// All of the forward that the backward reads but SwiGLU's output; where gate_up is not kept, that output.
void forward_to_gate_up(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerPacks* packs, const LayerActivations& a,
                        const WorkTensors& work) {
  const auto eps = static_cast<float>(p.config.rms_norm_eps);
  const Tensor normed_attn = a.normed_attn ? a.normed_attn : work.normed, normed_mlp = a.normed_mlp ? a.normed_mlp : work.normed;
  p.ops.rms_norm(p.backend, normed_attn, work.x, w.input_norm, eps, 1, a.rstd_attn, a.x_attn);
  linear(p, a.qkv, normed_attn, w.qkv, packs ? &packs->qkv : nullptr, w.qkv_bias, false);
  finish_qkv(p, index, w, a);
  p.ops.attention(p.backend, attention_args(p, index, a));
  linear(p, work.x, a.attn, w.o, packs ? &packs->o : nullptr, w.o_bias, true);

  p.ops.rms_norm(p.backend, normed_mlp, work.x, w.post_norm, eps, 1, a.rstd_mlp, a.x_mlp);
  ops::GemmArgs g;
  g.form = ops::GemmForm::nt;
  g.a = normed_mlp, g.b = w.gate_up, g.packed_b = packs ? &packs->gate_up : nullptr;
  g.c = a.gate_up ? a.gate_up : work.act, g.swiglu_c = !a.gate_up;
  p.ops.gemm(p.backend, g);
}

}  // namespace

void layer_forward(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerPacks* packs, const LayerActivations& a,
                   const WorkTensors& work) {
  if (a.input) p.ops.copy(p.backend, a.input, work.x);
  forward_to_gate_up(p, index, w, packs, a, work);
  const Tensor act = a.act ? a.act : work.act;
  if (a.gate_up) p.ops.swiglu(p.backend, act, a.gate_up);
  linear(p, work.x, act, w.down, packs ? &packs->down : nullptr, Tensor(), true);
}

void layer_recompute(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work) {
  WorkTensors again = work;
  again.x = work.x_again;
  p.ops.copy(p.backend, again.x, a.input);
  forward_to_gate_up(p, index, w, nullptr, a, again);
}

void layer_backward(const LayerPass& p, int64_t index, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work,
                    const LayerWeights& gradients) {
  mlp_backward(p, w, a, work, gradients);
  attention_block_backward(p, index, w, a, work, gradients);
}

}  // namespace rlhi
