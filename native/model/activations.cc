#include "model/activations.h"

#include <algorithm>

namespace rlhi {
namespace {

Tensor first_rows(const Tensor& t, int64_t n) { return t ? t.row_range(0, n) : t; }

LayerActivations take_shared_layer(const ModelConfig& c, DType m, int64_t tokens, BufferCutter& cut) {
  LayerActivations a;
  a.qkv = cut.take(m, tokens, c.qkv_width());
  a.attn = cut.take(m, tokens, c.q_width());
  return a;
}

LayerActivations take_layer(const ModelConfig& c, DType m, int64_t tokens, bool outputs_too, BufferCutter& cut) {
  LayerActivations a = take_shared_layer(c, m, tokens, cut);
  a.gate_up = cut.take(m, tokens, 2 * c.intermediate_size);
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
  if (!outputs_too) return a;
  a.normed_attn = cut.take(m, tokens, c.hidden_size);
  a.normed_mlp = cut.take(m, tokens, c.hidden_size);
  a.act = cut.take(m, tokens, c.intermediate_size);
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
  w.dattn = cut.take(m, tokens, c.q_width());
  w.dqkv = cut.take(m, tokens, c.qkv_width());
  return w;
}

}  // namespace

LayerActivations LayerActivations::rows(int64_t n) const {
  LayerActivations a = *this;
  a.for_each([&](const char*, Tensor& t) { t = first_rows(t, n); });
  return a;
}

WorkTensors WorkTensors::rows(int64_t n) const {
  WorkTensors w;
  w.x = first_rows(x, n), w.normed = first_rows(normed, n), w.act = first_rows(act, n);
  w.dy = first_rows(dy, n), w.dnormed = first_rows(dnormed, n);
  w.dattn = first_rows(dattn, n), w.dqkv = first_rows(dqkv, n);
  w.x_again = first_rows(x_again, n);
  return w;
}

InferenceTensors lay_out_inference(const ModelConfig& config, DType dtype, int64_t max_tokens, void* base) {
  BufferCutter cut(base);
  InferenceTensors t;
  t.layer = take_shared_layer(config, dtype, max_tokens, cut);
  t.work = take_work(config, dtype, max_tokens, false, cut);
  t.bytes = cut.bytes();
  return t;
}

TrainingTensors lay_out_training(const ModelConfig& config, DType dtype, Recompute recompute, int64_t max_tokens, int64_t max_output_rows,
                                 void* base) {
  BufferCutter cut(base);
  TrainingTensors t;
  const auto layers = static_cast<size_t>(config.n_layers);
  if (recompute == Recompute::layers) {
    t.layers.assign(layers, take_layer(config, dtype, max_tokens, false, cut));
    for (LayerActivations& a : t.layers) a.input = cut.take(DType::f32, max_tokens, config.hidden_size);
  } else {
    for (size_t l = 0; l < layers; ++l) t.layers.push_back(take_layer(config, dtype, max_tokens, recompute == Recompute::none, cut));
  }
  t.work = take_work(config, dtype, max_tokens, true, cut);
  if (recompute == Recompute::layers) t.work.x_again = cut.take(DType::f32, max_tokens, config.hidden_size);
  t.out_x = cut.take(dtype, max_output_rows, config.hidden_size);
  t.out_rows_f32 = cut.take(DType::f32, max_output_rows, config.hidden_size);
  t.rstd_out = cut.take(DType::f32, max_output_rows, 1);
  t.hidden = cut.take(dtype, max_output_rows, config.hidden_size);
  t.bytes = cut.bytes();
  return t;
}

std::vector<ActivationEntry> activation_table(const ModelConfig& config, DType dtype, Recompute recompute, int64_t max_tokens,
                                              int64_t max_output_rows) {
  const auto layers = static_cast<size_t>(config.n_layers);
  const TrainingTensors kept = lay_out_training(config, dtype, recompute, max_tokens, max_output_rows, nullptr);
  BufferCutter cut(nullptr);
  LayerActivations all = take_layer(config, dtype, max_tokens, true, cut), here = kept.layers.front();
  if (recompute == Recompute::layers) here = {}, all.input = here.input = kept.layers.front().input;
  std::vector<ActivationEntry> table;
  all.for_each([&](const char* name, const Tensor& t) {
    if (t.bytes() > 0) table.push_back({name, BufferCutter::taken_by(t) * layers, false});
  });
  size_t of_layers = 0;
  here.for_each([&](const char* name, const Tensor& t) {
    if (t.bytes() == 0) return;
    const auto entry = std::find_if(table.begin(), table.end(), [&](const ActivationEntry& e) { return e.name == name; });
    entry->kept = true;
    of_layers += entry->bytes;
  });
  table.push_back({"one layer after the other", kept.bytes - of_layers, true});
  return table;
}

}  // namespace rlhi
