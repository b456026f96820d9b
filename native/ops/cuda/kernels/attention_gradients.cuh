// What the kernels of attention's gradients share: what they are given, the walk of a tile of keys over the queries that see it,
// and how fragments are hidden and stored.
#pragma once
#include "ops/cuda/kernels/attention_plain.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {

constexpr int kQueryBlock = 64;    // queries a tile of keys takes at once, cut from the start of their segment

struct Gradients {
  const void* dout;
  int64_t dout_stride;
  const float *lse_log2, *delta;   // [T, H]: lse log2(e), and the sums over rows of dout * out
  void *dq, *dk, *dv;
  int64_t dq_stride, dk_stride, dv_stride;
};

// Two neighbouring columns of this thread's two rows of each fragment, times a factor, as bf16.
template <int kFragments>
RLHI_DEVICE void store_fragments(void* data, int64_t stride, int64_t row, bool row0, bool row1, int column, const float (&d)[kFragments][4],
                                 float factor) {
  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (!(i == 0 ? row0 : row1)) continue;
    auto* to = static_cast<uint16_t*>(data) + (row + 8 * i) * stride + column + thread_index() % 4 * 2;
    RLHI_UNROLL
    for (int n = 0; n < kFragments; ++n) store_words(to + n * 8, pack_bf16(d[n][2 * i] * factor, d[n][2 * i + 1] * factor));
  }
}

inline Gradients gradients_of(const AttentionBackwardArgs& b, const BackwardRows& rows) {
  return {b.dout.data, b.dout.row_stride, rows.lse_log2,   rows.delta,     b.dq.data,
          b.dk.data,   b.dv.data,         b.dq.row_stride, b.dk.row_stride, b.dv.row_stride};
}

// A block of up to kQueryBlock queries of one head and segment, and where the tile's keys lie for it.
struct QueryBlock {
  int row;               // of q
  int position, queries, head;
  int key_position;      // of the tile's key 0
  int first_key, end_key;  // of the tile: the keys that the visitor's span holds
};

// Blocks of queries that see some key of a tile: visitors, then heads of the group, then blocks from the segment's start.
struct QueryWalk {
  const Visitor *visitor, *end;
  int key_row, keys, first_head;       // of the tile
  QuerySegment segment;                // of the visitor
  int key_position, first_key, end_key, begin, limit;
  int head, at;                        // where it stands

  static RLHI_DEVICE QueryWalk over(const AttentionInputs& in, const Visitor* visitors, int n_visitors, int tile_row, int tile_keys,
                                    int tile_head) {
    QueryWalk w{visitors, visitors + n_visitors, tile_row, tile_keys, tile_head, {}, 0, 0, 0, 0, 0, 0, 0};
    w.open(in);
    return w;
  }
  // The next block, or one of 0 queries.
  RLHI_DEVICE QueryBlock next(const AttentionInputs& in) {
    while (visitor != end) {
      if (at < limit) {
        const QueryBlock b{segment.row + at, segment.position + at, least(kQueryBlock, segment.length - at), first_head + head,
                           key_position, first_key, end_key};
        at += kQueryBlock;
        return b;
      }
      if (++head < in.group) {
        at = begin;
        continue;
      }
      ++visitor;
      open(in);
    }
    return {0, 0, 0, 0, 0, 0, 0};
  }
  RLHI_DEVICE void open(const AttentionInputs& in) {
    if (visitor == end) return;
    segment = in.segments[visitor->segment];
    const KeySpan span = in.spans[visitor->span];
    const int offset = key_row - span.row;  // of the tile in the span
    first_key = most(0, -offset), end_key = least(keys, span.length - offset);
    key_position = span.position + offset;
    head = 0;
    begin = most(0, key_position + first_key - segment.position) / kQueryBlock * kQueryBlock;
    limit = in.window > 0 ? least(segment.length, key_position + end_key - 1 + in.window - segment.position) : segment.length;
    if (first_key >= end_key) limit = begin;
    at = begin;
  }
};

// Scores transposed: rows are keys, of which the thread's are key0 and key0 + 8, columns are queries of the block from first_query on.
// -inf where the query does not see the key.
template <int kFragments>
RLHI_DEVICE void mask_transposed(float (&s)[kFragments][4], const QueryBlock& b, int first_query, int key0, int window) {
  const auto columns = [&](int key) {
    const int same = b.key_position + key - b.position - first_query;  // the query at the key's own position
    if (key < b.first_key || key >= b.end_key) return ColumnRange{kFragments * 8, 0};
    return ColumnRange{same, window > 0 ? same + window - 1 : kFragments * 8};
  };
  const ColumnRange c0 = columns(key0), c1 = columns(key0 + 8);
  mask_scores(s, c0.low, c0.high, c1.low, c1.high);
}

}  // namespace rlhi::ops::cuda
