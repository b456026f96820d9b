// What a forward writes and a backward reads, and how one buffer is cut into it.
//
// T tokens, N output rows, D hidden_size, H n_heads, G n_kv_heads, K head_dim, F intermediate_size; m is the model dtype.
//
//   of each layer, kept for the backward     elements a token          read by
//   x_attn     residual before attention     D              m          input norm's backward, its recomputed output
//   qkv        q and k after rope, v         (H+2G)K        m          attention's backward
//   qk_raw     q and k before their norm     (H+G)K         m          q/k norm's backward (qwen3 only)
//   attn       attention's output            HK             m          o-projection's weight gradient, attention's backward
//   x_mlp      residual before the MLP       D              m          post-attention norm's backward, its recomputed output
//   gate_up    the two projections           2F             m          SwiGLU's backward, its recomputed output
//   lse, rstd  row statistics                H + 2 (+ H+G)  f32
//
//   recomputed in the backward: both norms' outputs (from x and its rstd: one pass over D) and SwiGLU's output (one pass
//   over 2F). They would add 2D + F elements a token, a third of the whole, to save under 1 % of a step.
//   The residual stream itself is one f32 row a token, whatever the number of layers.
#pragma once
#include <vector>

#include "model/device_buffer.h"
#include "model/transformer.h"

namespace rlhi {

// One layer's tensors. Those of the backward are empty in inference, where all layers share one set.
struct LayerActivations {
  Tensor x_attn, rstd_attn;              // [T, D] m, [T, 1] f32
  Tensor qkv;                            // [T, (H+2G)K] m
  Tensor qk_raw, rstd_q, rstd_k;         // [T, (H+G)K] m, [T, H] f32, [T, G] f32
  Tensor attn, lse;                      // [T, HK] m, [T, H] f32
  Tensor x_mlp, rstd_mlp;                // [T, D] m, [T, 1] f32
  Tensor gate_up;                        // [T, 2F] m

  LayerActivations rows(int64_t n) const;  // the same for the first n tokens
};

// Used by one layer after the other.
struct WorkTensors {
  Tensor x;                              // [T, D] f32: the residual stream; in the backward its gradient
  Tensor normed;                         // [T, D] m
  Tensor act;                            // [T, F] m: SwiGLU's output
  // backward only
  Tensor dy;                             // [T, D] m: x's gradient as an operand of products
  Tensor dnormed;                        // [T, D] f32
  Tensor dact;                           // [T, F] m
  Tensor dattn;                          // [T, HK] m
  Tensor dqkv;                           // [T, (H+2G)K] m

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
TrainingTensors lay_out_training(const ModelConfig& config, DType dtype, int64_t max_tokens, int64_t max_output_rows, void* base);

struct Transformer::Activations {
  int64_t max_tokens = 0, max_output_rows = 0;
  DeviceBuffer buffer;
  TrainingTensors t;
};

}  // namespace rlhi
