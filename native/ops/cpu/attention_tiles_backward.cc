// Gradients of attention by tiles of bf16: attention_backward.cc's walk, with products of bf16 factors. The scale of the scores is
// applied to them in f32, and to dq and dk as they are stored.
#include <algorithm>
#include <cstring>

#include "ops/cpu/attention_tiles.h"

namespace rlhi::ops {
namespace {

// One tree and one key/value head.
class TreeBackward {
 public:
  TreeBackward(const Backend& backend, Scratch& scratch, const AttentionBackwardArgs& args, const AttentionTrees& trees, int64_t tree, int kv_head)
      : kernels_(backend.kernels), products_(*backend.tiles), args_(args), a_(args.forward), trees_(trees), tree_(tree), kv_head_(kv_head),
        n_(a_.head_dim), dims_(round_up(n_, kTilePanel)), key_rows_(trees.key_rows[static_cast<size_t>(tree)] + kTilePanel),
        memory_(scratch, floats(dims_, key_rows_)) {
    dk_ = memory_.take(key_rows_ * dims_);
    dv_ = memory_.take(key_rows_ * dims_);
    std::memset(dk_, 0, static_cast<size_t>(key_rows_ * dims_) * sizeof(float));
    std::memset(dv_, 0, static_cast<size_t>(key_rows_ * dims_) * sizeof(float));
    for (bf16** p : {&q_, &dout_, &q_columns_, &dout_columns_, &q_rows_, &dout_rows_}) *p = halves(kTileColumns * dims_);
    for (bf16** p : {&keys_, &values_, &keys_turned_}) *p = halves(kKeyBlock * dims_);
    probabilities_ = halves(kKeyBlock * kScoreStride);
    dq_ = memory_.take(kTileColumns * dims_);
    turned_ = memory_.take(kScoreStride * kMaxTileCols);
    block_.scores = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    block_.dscores = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    position_ = memory_.take(kTileColumns);
    lse_ = memory_.take(kTileColumns);
    delta_ = memory_.take(kTileColumns);
    scales_ = memory_.take(kTileColumns);
    imbalance_ = reinterpret_cast<double*>(memory_.take(2 * kTileColumns));
    std::fill(scales_, scales_ + kTileColumns, a_.scale);
    block_.scale = a_.scale;
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

  static int64_t floats(int64_t dims, int64_t key_rows) {
    const int64_t halves = (6 * kTileColumns + 3 * kKeyBlock) * dims + kKeyBlock * kScoreStride;
    return 2 * key_rows * dims + halves / 2 + kTileColumns * dims + kScoreStride * kMaxTileCols + 2 * kKeyBlock * kScoreStride +
           6 * kTileColumns + 1024;
  }

 private:
  bf16* halves(int64_t n) { return reinterpret_cast<bf16*>(memory_.take((n + 1) / 2)); }
  int64_t col() const { return kv_head_ * n_; }

  void load_columns(const QueryTile& tile) {
    const int64_t width = round_up(tile.columns, kTilePanel);
    gather_halves(tile, a_.q, q_, dims_);
    gather_halves(tile, args_.dout, dout_, dims_);
    q_right_ = products_.pack_right(q_columns_, q_, DType::bf16, dims_, true, width, dims_);
    dout_right_ = products_.pack_right(dout_columns_, dout_, DType::bf16, dims_, true, width, dims_);
    for (int first = 0; first < tile.columns; first += kScoreStride) {  // each part's own panels, [columns, head_dim]
      const int64_t columns = std::min<int64_t>(kScoreStride, width - first), at = first * dims_;
      products_.pack_right(q_rows_ + at, q_ + at, DType::bf16, dims_, false, dims_, columns);
      products_.pack_right(dout_rows_ + at, dout_ + at, DType::bf16, dims_, false, dims_, columns);
    }
    for (int c = 0; c < round_up(tile.columns, kernels_.width); ++c) {
      const int at = std::min(c, tile.columns - 1);
      position_[c] = static_cast<float>(tile.position(at));
      lse_[c] = reinterpret_cast<const float*>(row_pointer(a_.lse, tile.row(at)))[tile.head(at)];
      const float* out = read_row(kernels_, a_.out, tile.row(at), tile.head(at) * n_, n_, dq_);
      kernels_.convert(turned_, DType::f32, dout_ + at * dims_, DType::bf16, n_, 1.0f);
      delta_[c] = kernels_.dot(turned_, out, n_);
    }
  }

  void run_tile(const QueryTile& tile) {
    load_columns(tile);
    std::memset(dq_, 0, static_cast<size_t>(kTileColumns * dims_) * sizeof(float));
    std::fill(imbalance_, imbalance_ + kTileColumns, 0.0);
    tile.for_key_blocks([&](const KeyBlock& block) {
      const char *k = row_pointer(a_.k, block.row, col()), *v = row_pointer(a_.v, block.row, col());
      k_left_ = products_.pack_left(keys_, k, DType::bf16, a_.k.row_stride, false, block.packed, n_);
      v_left_ = products_.pack_left(values_, v, DType::bf16, a_.v.row_stride, false, block.packed, n_);
      k_turned_ = products_.pack_left(keys_turned_, k, DType::bf16, a_.k.row_stride, true, n_, block.packed);
      tile.for_parts(block, [&](const QueryTile& part, int first, const KeyBlock& seen) { run_part(part, first, seen); });
    });
    for (int first = 0; first < tile.columns; first += kScoreStride) {
      const QueryTile part{a_, tile.segment, kv_head_, tile.group, tile.first + first, std::min(kScoreStride, tile.columns - first)};
      scatter_columns(kernels_, part, dq_ + first * dims_, scales_, turned_, args_.dq);
    }
  }

  void run_part(const QueryTile& part, int first, const KeyBlock& block) {
    const int64_t panel = first / kTilePanel, width = round_up(part.columns, kTilePanel);
    products_.multiply(k_left_, block.keys, q_right_, panel, part.columns, k_left_.steps, block_.scores, kScoreStride, false);
    products_.multiply(v_left_, block.keys, dout_right_, panel, part.columns, v_left_.steps, block_.dscores, kScoreStride, false);
    block_.keys = block.keys;
    block_.columns = static_cast<int>(round_up(part.columns, kernels_.width));
    block_.masked = block.masked;
    block_.first_position = static_cast<float>(block.position);
    block_.position = position_ + first;
    block_.lse = lse_ + first;
    block_.delta = delta_ + first;
    block_.imbalance = imbalance_ + first;
    kernels_.attention_softmax_backward(block_);
    clear_padding(part, block);

    const Panels ds = products_.pack_right(probabilities_, block_.dscores, DType::f32, kScoreStride, false, width, block.keys);
    products_.multiply(k_turned_, n_, ds, 0, part.columns, ds.steps, dq_ + first * dims_, kScoreStride, true);
    const int64_t at = (trees_.span_offset[static_cast<size_t>(block.span)] + block.offset) * dims_;
    add_to_keys(block_.scores, part, block, dout_rows_ + first * dims_, dv_ + at);
    add_to_keys(block_.dscores, part, block, q_rows_ + first * dims_, dk_ + at);
  }

  // Columns beyond the part's repeat its last query, and must not count.
  void clear_padding(const QueryTile& part, const KeyBlock& block) {
    const int64_t beyond = round_up(part.columns, kTilePanel) - part.columns;
    if (beyond == 0) return;
    for (int i = 0; i < block.keys; ++i) {
      std::fill_n(block_.scores + i * kScoreStride + part.columns, beyond, 0.0f);
      std::fill_n(block_.dscores + i * kScoreStride + part.columns, beyond, 0.0f);
    }
  }

  // sums [keys, head_dim] += scores [keys, columns] rows [columns, head_dim]
  void add_to_keys(const float* scores, const QueryTile& part, const KeyBlock& block, bf16* rows, float* sums) {
    const int64_t width = round_up(part.columns, kTilePanel);
    const Panels left = products_.pack_left(probabilities_, scores, DType::f32, kScoreStride, false, block.keys, width);
    products_.multiply(left, block.keys, Panels{rows, left.steps}, 0, n_, left.steps, sums, dims_, true);
  }

  void store_keys(const QuerySegment& s) {
    const KeySpan& own = own_span(a_, s);
    const int64_t from = trees_.span_offset[static_cast<size_t>(s.first_span + s.n_spans - 1)];
    for (int64_t i = 0; i < own.length; ++i) {
      kernels_.convert(row_pointer(args_.dk, own.row + i, col()), args_.dk.dtype, dk_ + (from + i) * dims_, DType::f32, n_, a_.scale);
      kernels_.convert(row_pointer(args_.dv, own.row + i, col()), args_.dv.dtype, dv_ + (from + i) * dims_, DType::f32, n_, 1.0f);
    }
  }

  const Kernels& kernels_;
  const TileProducts products_;
  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  const AttentionTrees& trees_;
  int64_t tree_;
  int kv_head_;
  int64_t n_, dims_, key_rows_;      // head_dim, and rounded up to whole panels; rows of keys, with a panel of padding
  TileMemory memory_;
  float *dk_, *dv_, *dq_, *turned_, *position_, *lse_, *delta_, *scales_;
  bf16 *q_, *dout_, *q_columns_, *dout_columns_, *q_rows_, *dout_rows_, *keys_, *values_, *keys_turned_, *probabilities_;
  double* imbalance_;
  Panels q_right_, dout_right_, k_left_, v_left_, k_turned_;
  AttentionBlock block_;
};

}  // namespace

void attention_backward_by_tiles(Backend* backend, Scratch& scratch, const AttentionBackwardArgs& args, const AttentionTrees& trees,
                                 int64_t tree, int kv_head) {
  backend->tiles->begin();
  TreeBackward(*backend, scratch, args, trees, tree, kv_head).run();
  backend->tiles->end();
}

}  // namespace rlhi::ops
