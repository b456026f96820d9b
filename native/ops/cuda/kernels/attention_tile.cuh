// What the attention kernels share: which keys a tile of queries sees, and the softmax of one block of scores.
#pragma once
#include <initializer_list>

#include "ops/cuda/kernels/attention_products.cuh"

namespace rlhi::ops::cuda {

// Arguments of every attention kernel, as the device reads them.
struct AttentionInputs {
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  const QuerySegment* segments;
  const KeySpan* spans;
  int n_heads, group, head_dim, window;   // group: query heads a key/value head
  float scale;
};
inline AttentionInputs inputs_of(const AttentionArgs& a) {
  return {a.q.data, a.k.data, a.v.data, a.q.row_stride, a.k.row_stride, a.v.row_stride, a.segments, a.spans,
          a.n_heads, a.n_heads / a.n_kv_heads, a.head_dim, a.window, a.scale};
}
// Whether the kernels on tensor cores take these tensors; the plain kernels take any.
inline bool on_tensor_cores(std::initializer_list<Tensor> tensors, int head_dim) {
  if (head_dim != 64 && head_dim != 96 && head_dim != 128) return false;
  for (const Tensor& t : tensors) {
    if (t.dtype != DType::bf16 || reinterpret_cast<uintptr_t>(t.data) % 16 != 0 || t.row_stride % 8 != 0) return false;
  }
  return true;
}
// f(dim) with the head size as the constant dim::value, of those that on_tensor_cores() lets through.
template <int kD>
struct HeadDim {
  static constexpr int value = kD;
};
template <class F>
void with_head_dim(int head_dim, const F& f) {
  if (head_dim == 64) f(HeadDim<64>());
  else if (head_dim == 96) f(HeadDim<96>());
  else f(HeadDim<128>());
}
// Positions [oldest, newest] of a run of queries.
struct QueryRange {
  int oldest, newest;
};

struct KeyBlock {
  int row, position, keys;  // rows [row, row + keys) of k and v, at positions position, ...
};

// Whether some query of the range sees some key of the block, and whether all see all of a whole block.
RLHI_DEVICE bool sees_some(const QueryRange& q, const KeyBlock& b, int window) {
  return b.position <= q.newest && (window == 0 || b.position + b.keys - 1 > q.oldest - window);
}
RLHI_DEVICE bool sees_all(const QueryRange& q, const KeyBlock& b, int window) {
  return b.keys == kKeyBlock && b.position + kKeyBlock - 1 <= q.oldest && (window == 0 || b.position > q.newest - window);
}

// Blocks of kKeys keys, cut from the start of each span, in order, that some query of a range sees.
template <int kKeys>
struct KeyWalk {
  int span, end;             // of the spans
  QueryRange queries;
  int at;                    // in the span

  static RLHI_DEVICE KeyWalk over(const QuerySegment& s, QueryRange q) { return {s.first_span, s.first_span + s.n_spans, q, 0}; }
  // The next block, or one of 0 keys.
  RLHI_DEVICE KeyBlock next(const AttentionInputs& in) {
    for (; span != end; ++span, at = 0) {
      const KeySpan s = in.spans[span];
      const int seen = least(s.length, queries.newest + 1 - s.position);  // keys beyond are in the future of all
      if (at == 0 && in.window > 0) at = most(0, queries.oldest - in.window + 1 - s.position) / kKeys * kKeys;
      if (at >= seen) continue;
      const KeyBlock block{s.row + at, s.position + at, least(kKeys, s.length - at)};
      at += kKeys;
      return block;
    }
    return {0, 0, 0};
  }
};
using BlockWalk = KeyWalk<kKeyBlock>;

// Which steps of a tile's walk a part of the tile has to take: from its first block in sight to its last. (Products that run
// while the program goes on allow no branch around a step, so steps between are taken even where nothing is seen.)
struct StepRange {
  int first, end, all;
};
template <int kKeys = kKeyBlock>
RLHI_DEVICE StepRange steps_of(const AttentionInputs& in, const QuerySegment& s, QueryRange tile, QueryRange part) {
  StepRange steps{0, 0, 0};
  const auto first_block = [&](const QueryRange& q, const KeySpan& span) {
    return in.window > 0 ? most(0, q.oldest - in.window + 1 - span.position) / kKeys : 0;
  };
  const auto end_block = [](const QueryRange& q, const KeySpan& span) {
    return (least(span.length, most(0, q.newest + 1 - span.position)) + kKeys - 1) / kKeys;
  };
  for (int i = 0; i < s.n_spans; ++i) {
    const KeySpan span = in.spans[s.first_span + i];
    const int begin = first_block(tile, span), blocks = end_block(tile, span) - begin;
    if (blocks <= 0) continue;
    const int part_begin = first_block(part, span), part_end = end_block(part, span);
    if (part_begin < part_end) {
      if (steps.end == 0) steps.first = steps.all + part_begin - begin;
      steps.end = steps.all + part_end - begin;
    }
    steps.all += blocks;
  }
  return steps;
}

// ---- softmax of one block --------------------------------------------------------------------------------------------
// Powers of two throughout: weights are 2^(score * scale * log2(e) - maximum), the block's largest being 1.

// Scores outside [low, high] of a row's columns become -inf. Column of fragment n, element j: 8 n + 2 (lane % 4) + j % 2.
template <int kFragments>
RLHI_DEVICE void mask_scores(float (&s)[kFragments][4], int low0, int high0, int low1, int high1) {
  const int first = thread_index() % 4 * 2;
  RLHI_UNROLL
  for (int n = 0; n < kFragments; ++n) {
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int column = n * 8 + first + j % 2;
      const bool hidden = j < 2 ? (column < low0 || column > high0) : (column < low1 || column > high1);
      if (hidden) s[n][j] = negative_infinity();
    }
  }
}

// Columns [low, high] of a block that a query at `position` sees.
struct ColumnRange {
  int low, high;
};
RLHI_DEVICE ColumnRange columns_seen(const KeyBlock& b, int position, int window) {
  return {window > 0 ? position - window + 1 - b.position : 0, least(b.keys - 1, position - b.position)};
}

// -inf where this thread's rows, at `position` and position + 8, do not see the block's keys.
RLHI_DEVICE void hide_unseen(float (&s)[8][4], const KeyBlock& b, int position, int window) {
  const ColumnRange c0 = columns_seen(b, position, window), c1 = columns_seen(b, position + 8, window);
  mask_scores(s, c0.low, c0.high, c1.low, c1.high);
}

// A row's state so far, and one block's part of it: weights sum to `sum` relative to 2^maximum.
struct RowState {
  float maximum, sum;
};

// Turns scores of this thread's two rows into weights; part[i] receives row i's maximum and sum.
RLHI_DEVICE void block_softmax(float (&s)[8][4], float scale_log2, RowState (&part)[2]) {
  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    float maximum = negative_infinity();
    RLHI_UNROLL
    for (int n = 0; n < 8; ++n) maximum = fmaxf(maximum, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
    maximum = lanes_max<4>(maximum);
    part[i].maximum = maximum * scale_log2;
    const float shift = part[i].maximum == negative_infinity() ? 0.0f : part[i].maximum;  // nothing seen: all weights 0
    float sum = 0;
    RLHI_UNROLL
    for (int n = 0; n < 8; ++n) {
      RLHI_UNROLL
      for (int j = 2 * i; j < 2 * i + 2; ++j) {
        s[n][j] = exp2_fast(fused_multiply_add(s[n][j], scale_log2, -shift));
        sum += s[n][j];
      }
    }
    part[i].sum = lanes_sum<4>(sum);
  }
}

// What a fold multiplies: the state so far by `before`, the block by `block`. At least one of them is 1 (or nothing was seen).
struct FoldFactors {
  float before, block;
};
RLHI_DEVICE FoldFactors fold(RowState& state, const RowState& part) {
  const float maximum = fmaxf(state.maximum, part.maximum);
  FoldFactors f;
  f.before = state.maximum == negative_infinity() ? 0.0f : exp2_fast(state.maximum - maximum);
  f.block = part.maximum == negative_infinity() ? 0.0f : exp2_fast(part.maximum - maximum);
  state.sum = fused_multiply_add(part.sum, f.block, state.sum * f.before);
  state.maximum = maximum;
  return f;
}
// out = out * before + sum * block, row by row
template <int kFragments>
RLHI_DEVICE void fold_values(float (&out)[kFragments][4], const float (&sum)[kFragments][4], const FoldFactors& f0, const FoldFactors& f1) {
  if (warp_any(f0.before != 1.0f || f1.before != 1.0f)) {
    RLHI_UNROLL
    for (int n = 0; n < kFragments; ++n) out[n][0] *= f0.before, out[n][1] *= f0.before, out[n][2] *= f1.before, out[n][3] *= f1.before;
  }
  RLHI_UNROLL
  for (int n = 0; n < kFragments; ++n) {
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) out[n][j] = fused_multiply_add(sum[n][j], j < 2 ? f0.block : f1.block, out[n][j]);
  }
}
RLHI_DEVICE float log_sum(const RowState& s) { return s.sum > 0 ? (s.maximum + log2f(s.sum)) * kLn2 : negative_infinity(); }

}  // namespace rlhi::ops::cuda
