// Gradients of attention. Probabilities are computed again from the log-sum-exp (Dao et al., arXiv:2205.14135).
//
// A key's gradient sums over the queries of its own segment and of all that descend from it. Segments joined by shared
// keys make a tree; one task is a tree and a key/value head, and walks the tree's queries in order, so the sums have
// one order whatever the threads, and a tree's gradients do not depend on the trees beside it.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/cpu/attention_tile.h"

namespace rlhi::ops {
namespace {

struct Trees {
  std::vector<std::vector<int64_t>> segments;  // of each tree, in order
  std::vector<int64_t> key_rows;               // of each tree
  std::vector<int64_t> span_offset;            // a span's first row among its tree's gathered key rows
};

const KeySpan& own_span(const AttentionArgs& a, const QuerySegment& s) { return a.spans[s.first_span + s.n_spans - 1]; }

int64_t root(std::vector<int64_t>& parent, int64_t i) {
  for (int64_t up; (up = parent[static_cast<size_t>(i)]) != i;) i = parent[static_cast<size_t>(i)] = parent[static_cast<size_t>(up)];
  return i;
}

// The segment whose own keys hold this span.
int64_t owner_of(const AttentionArgs& a, const std::vector<int64_t>& by_row, const KeySpan& span) {
  auto after = std::upper_bound(by_row.begin(), by_row.end(), span.row,
                                [&](int32_t row, int64_t i) { return row < own_span(a, a.segments[i]).row; });
  check(after != by_row.begin(), ErrorCode::invalid_argument, "attention_backward: keys at row ", span.row, " belong to no segment");
  const int64_t owner = *(after - 1);
  const KeySpan& own = own_span(a, a.segments[owner]);
  check(span.row + static_cast<int64_t>(span.length) <= own.row + static_cast<int64_t>(own.length), ErrorCode::invalid_argument,
        "attention_backward: keys at rows ", span.row, " to ", span.row + span.length, " are not of one segment");
  return owner;
}

Trees find_trees(const AttentionArgs& a) {
  std::vector<int64_t> by_row, parent(static_cast<size_t>(a.n_segments)), offset(static_cast<size_t>(a.n_segments));
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    if (s.length == 0) continue;
    check(s.n_spans >= 1 && own_span(a, s).length == s.length, ErrorCode::invalid_argument,
          "attention_backward: the last span of segment ", i,
          " is not its own rows");
    by_row.push_back(i);
  }
  const auto own_row = [&](int64_t i) { return own_span(a, a.segments[i]).row; };
  std::sort(by_row.begin(), by_row.end(), [&](int64_t x, int64_t y) { return own_row(x) < own_row(y); });
  std::iota(parent.begin(), parent.end(), int64_t{0});
  std::vector<int64_t> owner(static_cast<size_t>(a.n_spans), -1);
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    for (int j = 0; s.length > 0 && j < s.n_spans; ++j) {
      const size_t span = static_cast<size_t>(s.first_span + j);
      if (a.spans[span].length == 0) continue;
      owner[span] = owner_of(a, by_row, a.spans[span]);
      parent[static_cast<size_t>(root(parent, i))] = root(parent, owner[span]);
    }
  }
  Trees trees;
  std::vector<int64_t> tree_of(static_cast<size_t>(a.n_segments), -1);
  for (int64_t i = 0; i < a.n_segments; ++i) {
    if (a.segments[i].length == 0) continue;
    int64_t& tree = tree_of[static_cast<size_t>(root(parent, i))];
    if (tree < 0) {
      tree = static_cast<int64_t>(trees.segments.size());
      trees.segments.emplace_back();
      trees.key_rows.push_back(0);
    }
    trees.segments[static_cast<size_t>(tree)].push_back(i);
    offset[static_cast<size_t>(i)] = trees.key_rows[static_cast<size_t>(tree)];
    trees.key_rows[static_cast<size_t>(tree)] += a.segments[i].length;
  }
  trees.span_offset.assign(static_cast<size_t>(a.n_spans), 0);
  for (size_t i = 0; i < owner.size(); ++i) {
    if (owner[i] >= 0) trees.span_offset[i] = offset[static_cast<size_t>(owner[i])] + a.spans[i].row - own_row(owner[i]);
  }
  return trees;
}

int64_t backward_floats(const Kernels& kernels, int head_dim, int64_t key_rows) {
  const int64_t stride = round_up(head_dim, kernels.nr);
  return 2 * key_rows * stride + 5 * kTileColumns * stride + kKeyBlock * (2 * kScoreStride + 4 * stride) + 6 * kTileColumns + 512;
}

// One tree and one key/value head.
class TreeBackward {
 public:
  TreeBackward(const Kernels& kernels, Scratch& scratch, const AttentionBackwardArgs& args, const Trees& trees, int64_t tree, int kv_head)
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
  const Trees& trees_;
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
  const Trees trees = find_trees(a);
  const int64_t tasks = static_cast<int64_t>(trees.segments.size()) * a.n_kv_heads;
  backend->pool.parallel_for(tasks, [&](int64_t task, int thread) {
    TreeBackward(backend->kernels, backend->local[static_cast<size_t>(thread)], args, trees, task / a.n_kv_heads,
                 static_cast<int>(task % a.n_kv_heads))
        .run();
  });
}

}  // namespace rlhi::ops
