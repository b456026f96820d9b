// Attention of decoding steps by tiles of bf16: segments of one query each.
//
// Segments that follow one another and begin with the same key spans (the samples of a prompt, prompts with a common beginning)
// make a group: those keys and values are read once for the queries of all, then each reads its own. A query's arithmetic is
// attention_tiles.cc's, whatever the group.
#pragma once
#include "ops/cpu/attention_tiles.h"

namespace rlhi::ops {

// Whether this segment's queries are few enough to be a group's member.
inline bool decodes(const AttentionArgs& a, const QuerySegment& s) { return s.length == 1 && a.n_heads / a.n_kv_heads <= kTilePanel; }

// The group that begins at `first`, of at most `limit` segments.
DecodeGroup group_at(const AttentionArgs& args, int64_t first, int64_t limit);

// Key/value heads [kv_head, kv_head + kv_heads) of a group.
void attention_decode_by_tiles(Backend* backend, Scratch& scratch, const AttentionArgs& args, const DecodeGroup& group, int kv_head, int kv_heads);

}  // namespace rlhi::ops
