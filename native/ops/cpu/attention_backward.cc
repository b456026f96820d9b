// Gradients of attention. Probabilities are computed again from the log-sum-exp (Dao et al., arXiv:2205.14135).
// One task is a tree and a key/value head (attention_trees.h).
#include <algorithm>
#include <cstring>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/attention_trees.h"

namespace rlhi::ops {
namespace {

int64_t backward_floats(const Kernels& kernels, int head_dim, int64_t key_rows) {
  const int64_t stride = round_up(head_dim, kernels.nr);
  return 2 * key_rows * stride + 5 * kTileColumns * stride + kKeyBlock * (2 * kScoreStride + 4 * stride) + 6 * kTileColumns + 512;
}

// One tree and one key/value head.
class TreeBackward {
 public:
  TreeBackward(const Kernels& kernels, Scratch& scratch, const AttentionBackwardArgs& args, const AttentionTrees& trees, int64_t tree, int kv_head)
      : kernels_(kernels), args_(args), a_(args.forward), trees_(trees), tree_(tree), kv_head_(kv_head), n_(a_.head_dim),
        stride_(round_up(n_, kernels.nr)),
        memory_(scratch, backward_floats(kernels, a_.head_dim, trees.key_rows[static_cast<size_t>(tree)])) {
    const int64_t rows = trees.key_rows[static_cast<size_t>(tree)];
    dk_ = memory_.take(rows * stride_);
    dv_ = memory_.take(rows * stride_);
    std::memset(dk_, 0, static_cast<size_t>(rows * stride_) * sizeof(float));
    std::memset(dv_, 0, static_cast<size_t>(rows * stride_) * sizeof(float));
    q_ = memory_.take(kTileColumns * stride_);
    dout_ = memory_.take(kTileColumns * stride_);
    q_columns_ = memory_.take(kTileColumns * n_);
    dout_columns_ = memory_.take(kTileColumns * n_);
    dq_ = memory_.take(kTileColumns * stride_);
    k_panels_ = memory_.take(kKeyBlock * n_);
    v_panels_ = memory_.take(kKeyBlock * n_);
    k_rows_ = memory_.take(kKeyBlock * stride_);
    block_.scores = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    block_.dscores = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    position_ = memory_.take(kTileColumns);
    lse_ = memory_.take(kTileColumns);
    delta_ = memory_.take(kTileColumns);
    imbalance_ = reinterpret_cast<double*>(memory_.take(2 * kTileColumns));
    block_.window = static_cast<float>(a_.window);
  }

  void run() {
    const int group = a_.n_heads / a_.n_kv_heads;
    for (const int64_t i : trees_.segments[static_cast<size_t>(tree_)]) {
      const QuerySegment& s = a_.segments[i];
      const int64_t columns = static_cast<int64_t>(s.length) * group;
      for (int64_t first = 0; first < columns; first += kTileColumns) {
        run_tile(QueryTile{a_, s, kv_head_, group, first, static_cast<int>(std::min<int64_t>(kTileColumns, columns - first))});
      }
    }
    for (const int64_t i : trees_.segments[static_cast<size_t>(tree_)]) store_keys(a_.segments[i]);
  }

 private:
  void load_columns(const QueryTile& tile) {
    gather_columns(kernels_, tile, a_.q, a_.scale, q_, stride_);
    pack_columns_of(kernels_, tile, q_, stride_, q_columns_);
    gather_columns(kernels_, tile, args_.dout, 1.0f, dout_, stride_);
    pack_columns_of(kernels_, tile, dout_, stride_, dout_columns_);
    for (int c = 0; c < round_up(tile.columns, kernels_.width); ++c) {
      const int at = std::min(c, tile.columns - 1);
      position_[c] = static_cast<float>(tile.position(at));
      lse_[c] = reinterpret_cast<const float*>(row_pointer(a_.lse, tile.row(at)))[tile.head(at)];
      const float* out = read_row(kernels_, a_.out, tile.row(at), tile.head(at) * n_, n_, dq_);
      delta_[c] = kernels_.dot(dout_ + at * stride_, out, n_);
    }
  }

  void run_tile(const QueryTile& tile) {
    load_columns(tile);
    std::memset(dq_, 0, static_cast<size_t>(kTileColumns * stride_) * sizeof(float));
    std::fill(imbalance_, imbalance_ + kTileColumns, 0.0);
    tile.for_key_blocks([&](const KeyBlock& block) {
      pack_keys(kernels_, tile, block, a_.k, k_panels_);
      pack_keys(kernels_, tile, block, a_.v, v_panels_);
      int64_t k_stride = 0;
      const float* k = key_rows(kernels_, tile, block, a_.k, k_rows_, k_stride);
      tile.for_parts(block, [&](const QueryTile& part, int first, const KeyBlock& seen) { run_part(part, first, seen, k, k_stride); });
    });
    for (int c = 0; c < tile.columns; ++c) {
      kernels_.convert(row_pointer(args_.dq, tile.row(c), tile.head(c) * n_), args_.dq.dtype, dq_ + c * stride_, DType::f32, n_, a_.scale);
    }
  }

  void run_part(const QueryTile& part, int first, const KeyBlock& block, const float* k, int64_t k_stride) {
    multiply_keys(kernels_, part, block, k_panels_, q_columns_ + first * n_, block_.scores);
    multiply_keys(kernels_, part, block, v_panels_, dout_columns_ + first * n_, block_.dscores);
    block_.keys = block.keys;
    block_.columns = static_cast<int>(round_up(part.columns, kernels_.width));
    block_.masked = block.masked;
    block_.first_position = static_cast<float>(block.position);
    block_.position = position_ + first;
    block_.lse = lse_ + first;
    block_.delta = delta_ + first;
    block_.imbalance = imbalance_ + first;
    kernels_.attention_softmax_backward(block_);
    add_to_columns(kernels_, part, block, block_.dscores, k, k_stride, dq_ + first * stride_, stride_);
    const int64_t at = (trees_.span_offset[static_cast<size_t>(block.span)] + block.offset) * stride_;
    add_to_keys(kernels_, part, block, block_.scores, dout_ + first * stride_, stride_, dv_ + at, stride_);
    add_to_keys(kernels_, part, block, block_.dscores, q_ + first * stride_, stride_, dk_ + at, stride_);  // q_ holds scale times q
  }

  void store_keys(const QuerySegment& s) {
    const KeySpan& own = own_span(a_, s);
    const int64_t from = trees_.span_offset[static_cast<size_t>(s.first_span + s.n_spans - 1)];
    for (int64_t i = 0; i < own.length; ++i) {
      kernels_.convert(row_pointer(args_.dk, own.row + i, kv_head_ * n_), args_.dk.dtype, dk_ + (from + i) * stride_, DType::f32, n_, 1.0f);
      kernels_.convert(row_pointer(args_.dv, own.row + i, kv_head_ * n_), args_.dv.dtype, dv_ + (from + i) * stride_, DType::f32, n_, 1.0f);
    }
  }

  const Kernels& kernels_;
  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  const AttentionTrees& trees_;
  int64_t tree_;
  int kv_head_;
  int64_t n_, stride_;
  TileMemory memory_;
  float *dk_, *dv_, *q_, *dout_, *q_columns_, *dout_columns_, *dq_, *k_panels_, *v_panels_, *k_rows_, *position_, *lse_, *delta_;
  double* imbalance_;
  AttentionBlock block_;
};

}  // namespace

void attention_backward(Backend* backend, const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  check_attention_backward(args);
  const AttentionTrees trees = find_trees(a);
  const int64_t tasks = static_cast<int64_t>(trees.segments.size()) * a.n_kv_heads;
  backend->pool.parallel_for(tasks, [&](int64_t task, int thread) {
    Scratch& scratch = backend->local[static_cast<size_t>(thread)];
    const int64_t tree = task / a.n_kv_heads;
    const int kv_head = static_cast<int>(task % a.n_kv_heads);
    if (backward_uses_tiles(*backend, args)) attention_backward_by_tiles(backend, scratch, args, trees, tree, kv_head);
    else TreeBackward(backend->kernels, scratch, args, trees, tree, kv_head).run();
  });
}

}  // namespace rlhi::ops
