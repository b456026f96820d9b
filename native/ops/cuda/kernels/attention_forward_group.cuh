// Attention's forward by warpgroup products (sm_90a): the same rows in the same bits as attention_forward.cu's.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

constexpr int kForwardGroups = 3;             // warpgroups of a tile's rows

bool has_group_attention();                   // on this device
void group_attention(const Launch&, const AttentionArgs&, const QueryTile* tiles, int64_t n_tiles);

}  // namespace rlhi::ops::cuda
