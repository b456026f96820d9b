// Attention without tensor cores: f32 tensors, head sizes other than 64, 96 and 128, rows that are not 16-byte aligned.
// For correctness everywhere, not for speed.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

constexpr int kPlainRows = 4;   // rows of a tile, of queries or of keys: one a warp

void plain_attention(const Launch&, const AttentionArgs&, const QueryTile* tiles, int64_t n_tiles);

// What both backwards need of each row and head, [T, H]: lse in powers of two, and the sum of dout * out.
struct BackwardRows {
  float *lse_log2, *delta;
};
void backward_rows(const Launch&, const AttentionBackwardArgs&, const BackwardRows&);
void plain_attention_backward(const Launch&, const AttentionBackwardArgs&, const BackwardTiles&, const float* delta);

}  // namespace rlhi::ops::cuda
