// Attention's forward by warpgroup products (sm_90a): the same rows in the same bits as attention_forward.cu's.
#pragma once
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

// Rows of its tiles on this device; 0 where it has no products of warpgroups.
int group_attention_rows(const AttentionArgs&);
void group_attention(const Launch&, const AttentionArgs&, const QueryTile* tiles, int64_t n_tiles);

}  // namespace rlhi::ops::cuda
