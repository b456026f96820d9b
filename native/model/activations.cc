#include "model/activations.h"

namespace rlhi {
namespace {

Tensor first_rows(const Tensor& t, int64_t n) { return t ? t.row_range(0, n) : t; }

LayerActivations take_layer(const ModelConfig& c, DType m, int64_t tokens, bool for_backward, BufferCutter& cut) {
  LayerActivations a;
  a.qkv = cut.take(m, tokens, c.qkv_width());
  a.attn = cut.take(m, tokens, c.q_width());
  a.gate_up = cut.take(m, tokens, 2 * c.intermediate_size);
  if (!for_backward) return a;
  a.x_attn = cut.take(m, tokens, c.hidden_size);
  a.x_mlp = cut.take(m, tokens, c.hidden_size);
  a.rstd_attn = cut.take(DType::f32, tokens, 1);
  a.rstd_mlp = cut.take(DType::f32, tokens, 1);
  a.lse = cut.take(DType::f32, tokens, c.n_heads);
  if (c.qk_norm) {
    a.qk_raw = cut.take(m, tokens, c.q_width() + c.kv_width());
    a.rstd_q = cut.take(DType::f32, tokens, c.n_heads);
    a.rstd_k = cut.take(DType::f32, tokens, c.n_kv_heads);
  }
  return a;
}

WorkTensors take_work(const ModelConfig& c, DType m, int64_t tokens, bool for_backward, BufferCutter& cut) {
  WorkTensors w;
  w.x = cut.take(DType::f32, tokens, c.hidden_size);
  w.normed = cut.take(m, tokens, c.hidden_size);
  w.act = cut.take(m, tokens, c.intermediate_size);
  if (!for_backward) return w;
  w.dy = cut.take(m, tokens, c.hidden_size);
  w.dnormed = cut.take(DType::f32, tokens, c.hidden_size);
  w.dact = cut.take(m, tokens, c.intermediate_size);
  w.dattn = cut.take(m, tokens, c.q_width());
  w.dqkv = cut.take(m, tokens, c.qkv_width());
  return w;
}

}  // namespace

LayerActivations LayerActivations::rows(int64_t n) const {
  LayerActivations a;
  a.x_attn = first_rows(x_attn, n), a.rstd_attn = first_rows(rstd_attn, n);
  a.qkv = first_rows(qkv, n), a.qk_raw = first_rows(qk_raw, n), a.rstd_q = first_rows(rstd_q, n), a.rstd_k = first_rows(rstd_k, n);
  a.attn = first_rows(attn, n), a.lse = first_rows(lse, n);
  a.x_mlp = first_rows(x_mlp, n), a.rstd_mlp = first_rows(rstd_mlp, n);
  a.gate_up = first_rows(gate_up, n);
  return a;
}

WorkTensors WorkTensors::rows(int64_t n) const {
  WorkTensors w;
  w.x = first_rows(x, n), w.normed = first_rows(normed, n), w.act = first_rows(act, n);
  w.dy = first_rows(dy, n), w.dnormed = first_rows(dnormed, n), w.dact = first_rows(dact, n);
  w.dattn = first_rows(dattn, n), w.dqkv = first_rows(dqkv, n);
  return w;
}

InferenceTensors lay_out_inference(const ModelConfig& config, DType dtype, int64_t max_tokens, void* base) {
  BufferCutter cut(base);
  InferenceTensors t;
  t.layer = take_layer(config, dtype, max_tokens, false, cut);
  t.work = take_work(config, dtype, max_tokens, false, cut);
  t.bytes = cut.bytes();
  return t;
}

TrainingTensors lay_out_training(const ModelConfig& config, DType dtype, int64_t max_tokens, int64_t max_output_rows, void* base) {
  BufferCutter cut(base);
  TrainingTensors t;
  t.layers.reserve(static_cast<size_t>(config.n_layers));
  for (int64_t l = 0; l < config.n_layers; ++l) t.layers.push_back(take_layer(config, dtype, max_tokens, true, cut));
  t.work = take_work(config, dtype, max_tokens, true, cut);
  t.out_x = cut.take(dtype, max_output_rows, config.hidden_size);
  t.out_rows_f32 = cut.take(DType::f32, max_output_rows, config.hidden_size);
  t.rstd_out = cut.take(DType::f32, max_output_rows, 1);
  t.hidden = cut.take(dtype, max_output_rows, config.hidden_size);
  t.bytes = cut.bytes();
  return t;
}

}  // namespace rlhi
