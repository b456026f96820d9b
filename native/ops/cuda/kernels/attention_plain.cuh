// Attention without tensor cores: f32 tensors, head sizes other than 64, 96 and 128, rows that are not 16-byte aligned.
// For correctness everywhere, not for speed.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

constexpr int kPlainRows = 4;   // rows of a tile, of queries or of keys: one a warp

void plain_attention(const Launch&, const AttentionArgs&, const QueryTile* tiles, int64_t n_tiles);

// delta [T, H]: the sums over a row of dout * out.
void attention_delta(const Launch&, const AttentionBackwardArgs&, float* delta);
void plain_attention_backward(const Launch&, const AttentionBackwardArgs&, const BackwardTiles&, const float* delta);

}  // namespace rlhi::ops::cuda
