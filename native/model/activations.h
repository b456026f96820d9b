// What a forward writes and a backward reads, and how one buffer is cut into it.
//
// T tokens, N output rows, D hidden_size, H n_heads, G n_kv_heads, K head_dim, F intermediate_size; m is the model dtype.
//
//   of each layer                            elements a token          read by                                       kept by
//   x_attn     residual before attention     D              m          input norm's backward, its recomputed output  none, norms
//   qkv        q and k after rope, v         (H+2G)K        m          attention's backward                          none, norms
//   qk_raw     q and k before their norm     (H+G)K         m          q/k norm's backward (qwen3 only)              none, norms
//   attn       attention's output            HK             m          o-projection's weight gradient, attention's   none, norms
//   x_mlp      residual before the MLP       D              m          post-attention norm's backward, its output    none, norms
//   gate_up    the two projections           2F             m          SwiGLU's backward, its recomputed output      none, norms
//   lse, rstd  row statistics                H + 2 (+ H+G)  f32        the backwards of attention and norms          none, norms
//   normed_attn, normed_mlp: norms' outputs  2D             m          weight gradients of qkv and gate_up           none
//   act        SwiGLU's output               F              m          weight gradient of down                       none
//   input      the residual stream           D              f32        the layer's forward, once more                layers
//
//   What a level of recomputation (transformer.h) does not keep, the backward computes again: norms and SwiGLU by one pass over x or
//   gate_up; a whole layer by its forward, from f32 input to gate_up, so that the bits are those of the first time.
//   The residual stream itself is one f32 row a token, whatever the number of layers.
#pragma once
#include <string>
#include <vector>

#include "ops/device_buffer.h"
#include "model/transformer.h"

namespace rlhi {

// One layer's tensors; what is not kept is empty. In inference all layers share one set.
struct LayerActivations {
  Tensor input;                          // [T, D] f32
  Tensor x_attn, rstd_attn;              // [T, D] m, [T, 1] f32
  Tensor qkv;                            // [T, (H+2G)K] m
  Tensor qk_raw, rstd_q, rstd_k;         // [T, (H+G)K] m, [T, H] f32, [T, G] f32
  Tensor attn, lse;                      // [T, HK] m, [T, H] f32
  Tensor x_mlp, rstd_mlp;                // [T, D] m, [T, 1] f32
  Tensor gate_up;                        // [T, 2F] m
  Tensor normed_attn, normed_mlp, act;   // [T, D] m, [T, D] m, [T, F] m

  template <class F>
  void for_each(const F& f) {            // f(name, tensor)
    f("input", input), f("x_attn", x_attn), f("rstd_attn", rstd_attn), f("qkv", qkv), f("qk_raw", qk_raw), f("rstd_q", rstd_q), f("rstd_k", rstd_k);
    f("attn", attn), f("lse", lse), f("x_mlp", x_mlp), f("rstd_mlp", rstd_mlp), f("gate_up", gate_up);
    f("normed_attn", normed_attn), f("normed_mlp", normed_mlp), f("act", act);
  }
  LayerActivations rows(int64_t n) const;  // the same for the first n tokens
};

// Used by one layer after the other.
struct WorkTensors {
  Tensor x;                              // [T, D] f32: the residual stream; in the backward its gradient
  Tensor normed;                         // [T, D] m
  Tensor act;                            // [T, F] m: SwiGLU's output; in the backward its gradient first
  // backward only
  Tensor dy;                             // [T, D] m: x's gradient as an operand of products
  Tensor dnormed;                        // [T, D] f32
  Tensor dattn;                          // [T, HK] m
  Tensor dqkv;                           // [T, (H+2G)K] m
  Tensor x_again;                        // [T, D] f32: the residual stream of a layer that is computed again

  WorkTensors rows(int64_t n) const;
};

struct InferenceTensors {
  LayerActivations layer;                // shared by all layers
  WorkTensors work;
  size_t bytes = 0;
};
InferenceTensors lay_out_inference(const ModelConfig& config, DType dtype, int64_t max_tokens, void* base);

struct TrainingTensors {
  std::vector<LayerActivations> layers;
  WorkTensors work;
  Tensor out_x, out_rows_f32, rstd_out;  // [N, D] m: residual at the output rows; [N, D] f32 work; [N, 1] f32
  Tensor hidden;                         // [N, D] m: the final norm's output
  size_t bytes = 0;
};
TrainingTensors lay_out_training(const ModelConfig& config, DType dtype, Recompute recompute, int64_t max_tokens, int64_t max_output_rows,
                                 void* base);

// The table above in bytes, all layers together; the last entry is what one layer after the other uses, and the output rows. What is kept adds
// up to lay_out_training's bytes.
struct ActivationEntry {
  std::string name;
  size_t bytes;
  bool kept;                             // else computed again: bytes are what keeping would take
};
std::vector<ActivationEntry> activation_table(const ModelConfig& config, DType dtype, Recompute recompute, int64_t max_tokens,
                                              int64_t max_output_rows);

struct Transformer::Activations {
  int64_t max_tokens = 0, max_output_rows = 0;
  DeviceBuffer buffer;
  TrainingTensors t;
};

}  // namespace rlhi
