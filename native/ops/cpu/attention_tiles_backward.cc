// Gradients of attention by tiles of bf16: attention_backward.cc's walk, with products of bf16 factors. The scale of the scores is
// applied to them in f32, and to dq and dk as they are stored.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/cpu/attention_tiles.h"

namespace rlhi::ops {
namespace {

// A task's tiles.
class TilesBackward {
 public:
  TilesBackward(const Backend& backend, Scratch& scratch, const AttentionBackwardArgs& args, const BackwardPlan& plan, const BackwardTask& task,
                SharedKeyGradients* shared)
      : kernels_(backend.kernels), tiles_(*backend.tiles), products_(tiles_), args_(args), a_(args.forward), n_(a_.head_dim), dims_(round_up(n_, kTilePanel)),
        memory_(scratch, floats(dims_, shared ? 0 : own_rows(plan, task))),
        walk_(a_, plan, task, shared ? shared->of(task) : own_key_gradients(memory_, own_rows(plan, task) * dims_), shared) {
    for (bf16** p : {&q_, &dout_, &q_columns_, &dout_columns_, &q_rows_, &dout_rows_}) *p = halves(kTileColumns * dims_);
    for (bf16** p : {&keys_, &values_, &keys_turned_}) *p = halves(kKeyBlock * dims_);
    for (bf16** p : {&probability_rows_, &dscore_rows_}) *p = halves(kKeyBlock * kTileColumns);
    dscores_ = halves(kKeyBlock * kScoreStride);
    factors_.probability_rows = probability_rows_, factors_.dscore_rows = dscore_rows_;
    dq_ = memory_.take(kTileColumns * dims_);
    turned_ = memory_.take(kScoreStride * kMaxTileCols);
    block_.scores = memory_.take(static_cast<int64_t>(kTilePanel) * kScoreStride);
    block_.dscores = memory_.take(static_cast<int64_t>(kTilePanel) * kScoreStride);
    position_ = memory_.take(kTileColumns);
    lse_ = memory_.take(kTileColumns);
    delta_ = memory_.take(kTileColumns);
    scales_ = memory_.take(kTileColumns);
    std::fill(scales_, scales_ + kTileColumns, a_.scale);
    block_.scale = a_.scale;
    block_.window = static_cast<float>(a_.window);
  }

  void run() {
    walk_.run([&](const QueryTile& tile) { run_tile(tile); }, [&](const QuerySegment& s) { store_keys(s); });
  }

  static int64_t floats(int64_t dims, int64_t key_rows) {
    const int64_t halves = (6 * kTileColumns + 3 * kKeyBlock) * dims + kKeyBlock * (2 * kTileColumns + kScoreStride);
    return 2 * key_rows * dims + halves / 2 + kTileColumns * dims + kScoreStride * kMaxTileCols + 2 * kTilePanel * kScoreStride +
           4 * kTileColumns + 1024;
  }

 private:
  bf16* halves(int64_t n) { return reinterpret_cast<bf16*>(memory_.take((n + 1) / 2)); }
  int64_t col() const { return walk_.kv_head() * n_; }
  // A product writes whole panels, of which the last may go beyond the tree's rows.
  static int64_t own_rows(const BackwardPlan& plan, const BackwardTask& task) { return plan.trees.key_rows[task.tree] + kTilePanel; }

  void load_columns(const QueryTile& tile) {
    const int64_t width = round_up(tile.columns, kTilePanel);
    gather_halves(tile, a_.q, q_, dims_);
    gather_halves(tile, args_.dout, dout_, dims_);
    q_right_ = products_.pack_right(q_columns_, q_, DType::bf16, dims_, true, width, dims_);
    dout_right_ = products_.pack_right(dout_columns_, dout_, DType::bf16, dims_, true, width, dims_);
    q_rows_right_ = products_.pack_right(q_rows_, q_, DType::bf16, dims_, false, dims_, width);
    dout_rows_right_ = products_.pack_right(dout_rows_, dout_, DType::bf16, dims_, false, dims_, width);
    for (int c = 0; c < width; ++c) {
      const int at = std::min(c, tile.columns - 1);
      position_[c] = static_cast<float>(tile.position(at));
      // Columns up to a whole panel have no probabilities and so add nothing.
      lse_[c] = c < tile.columns ? reinterpret_cast<const float*>(row_pointer(a_.lse, tile.row(at)))[tile.head(at)] : INFINITY;
      const float* out = read_row(kernels_, a_.out, tile.row(at), tile.head(at) * n_, n_, dq_);
      kernels_.convert(turned_, DType::f32, dout_ + at * dims_, DType::bf16, n_, 1.0f);
      delta_[c] = kernels_.dot(turned_, out, n_);
    }
  }

  void run_tile(const QueryTile& tile) {
    load_columns(tile);
    std::memset(dq_, 0, static_cast<size_t>(kTileColumns * dims_) * sizeof(float));
    tile.for_key_blocks([&](const KeyBlock& block) {
      const char *k = row_pointer(a_.k, block.row, col()), *v = row_pointer(a_.v, block.row, col());
      k_left_ = products_.pack_left(keys_, k, DType::bf16, a_.k.row_stride, false, block.packed, n_);
      v_left_ = products_.pack_left(values_, v, DType::bf16, a_.v.row_stride, false, block.packed, n_);
      k_turned_ = products_.pack_left(keys_turned_, k, DType::bf16, a_.k.row_stride, true, n_, block.packed);
      run_block(tile, block);
    });
    for (int first = 0; first < tile.columns; first += kScoreStride) {
      const QueryTile part = tile.part(first);
      scatter_columns(kernels_, part, dq_ + first * dims_, scales_, turned_, args_.dq);
    }
  }

  // The block's probabilities and d scores part by part; then its dk and dv over all columns of the tile at once.
  void run_block(const QueryTile& tile, const KeyBlock& block) {
    const int64_t steps = q_rows_right_.steps;
    factors_.left_panel = steps * kStepHalves;
    factors_.left_keys = block.keys;
    for (int first = 0; first < tile.columns; first += kScoreStride) {
      const QueryTile part = tile.part(first);
      run_part(part, first, part.seen(block));
    }
    // sums [keys, head_dim] += p [keys, columns] dout [columns, head_dim], and the same of ds and q
    walk_.add(block, [&] {
      float *dv = walk_.dv(block, dims_), *dk = walk_.dk(block, dims_);
      products_.multiply({probability_rows_, steps, block.keys}, block.keys, dout_rows_right_, 0, n_, steps, dv, dims_, true);
      products_.multiply({dscore_rows_, steps, block.keys}, block.keys, q_rows_right_, 0, n_, steps, dk, dims_, true);
    });
  }

  // A strip's scores stay in the first cache until they are factors.
  void run_part(const QueryTile& part, int first, const KeyBlock& seen) {
    const int64_t panel = first / kTilePanel;
    const Panels ds{dscores_, steps_of(seen.keys)};
    factors_.right_panel = ds.steps * kStepHalves;
    factors_.column = first;
    block_.columns = static_cast<int>(round_up(part.columns, kTilePanel));
    block_.masked = seen.masked;
    block_.position = position_ + first;
    block_.lse = lse_ + first;
    block_.delta = delta_ + first;
    for (factors_.key = 0; factors_.key < factors_.left_keys; factors_.key += kTilePanel) {
      block_.keys = std::clamp(seen.keys - factors_.key, 0, kTilePanel);
      block_.first_position = static_cast<float>(seen.position + factors_.key);
      if (block_.keys > 0) {
        multiply_strip(k_left_, q_right_, panel, part.columns, block_.scores);
        multiply_strip(v_left_, dout_right_, panel, part.columns, block_.dscores);
        factors_.right = dscores_;
      } else {
        factors_.right = nullptr;
      }
      tiles_.attention_softmax_backward(block_, factors_);
    }
    if (seen.keys > 0) products_.multiply(k_turned_, n_, ds, 0, part.columns, ds.steps, dq_ + first * dims_, kScoreStride, true);
  }

  void multiply_strip(const Panels& left, const Panels& right, int64_t panel, int64_t columns, float* scores) const {
    const int64_t rows = std::min<int64_t>(kTilePanel, left.rows - factors_.key);
    products_.multiply({left.panel(factors_.key / kTilePanel), left.steps, rows}, rows, right, panel, columns, left.steps, scores, kScoreStride, false);
  }

  void store_keys(const QuerySegment& s) {
    const KeySpan& own = own_span(a_, s);
    for (int64_t i = 0; i < own.length; ++i) {
      kernels_.convert(row_pointer(args_.dk, own.row + i, col()), args_.dk.dtype, walk_.dk(s, dims_) + i * dims_, DType::f32, n_, a_.scale);
      kernels_.convert(row_pointer(args_.dv, own.row + i, col()), args_.dv.dtype, walk_.dv(s, dims_) + i * dims_, DType::f32, n_, 1.0f);
    }
  }

  const Kernels& kernels_;
  const TileKernels& tiles_;
  const TileProducts products_;
  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  int64_t n_, dims_;                 // head_dim, and rounded up to whole panels
  TileMemory memory_;
  BackwardWalk walk_;
  float *dq_, *turned_, *position_, *lse_, *delta_, *scales_;
  bf16 *q_, *dout_, *q_columns_, *dout_columns_, *q_rows_, *dout_rows_, *keys_, *values_, *keys_turned_, *probability_rows_, *dscore_rows_, *dscores_;
  Panels q_right_, dout_right_, q_rows_right_, dout_rows_right_, k_left_, v_left_, k_turned_;
  AttentionBlock block_;             // the strip under way, and
  AttentionFactors factors_;         // what becomes of it
};

}  // namespace

void attention_backward_by_tiles(Backend* backend, Scratch& scratch, const AttentionBackwardArgs& args, const BackwardPlan& plan,
                                 const BackwardTask& task, SharedKeyGradients* shared) {
  backend->tiles->begin();
  TilesBackward(*backend, scratch, args, plan, task, shared).run();
  backend->tiles->end();
}

}  // namespace rlhi::ops
