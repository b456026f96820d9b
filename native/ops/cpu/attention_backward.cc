// Gradients of attention. Probabilities are computed again from the log-sum-exp (Dao et al., arXiv:2205.14135).
// Tasks are whole trees or tiles of them (attention_backward_plan.h).
#include <algorithm>
#include <cstring>
#include <optional>

#include "ops/cpu/attention_tiles.h"

namespace rlhi::ops {
namespace {

int64_t backward_floats(const Kernels& kernels, int head_dim, int64_t key_rows) {
  const int64_t stride = round_up(head_dim, kernels.nr);
  return 2 * key_rows * stride + 5 * kTileColumns * stride + kKeyBlock * (2 * kScoreStride + 4 * stride) + 6 * kTileColumns + 512;
}

// A task's tiles.
class TilesBackward {
 public:
  TilesBackward(const Kernels& kernels, Scratch& scratch, const AttentionBackwardArgs& args, const BackwardPlan& plan, const BackwardTask& task,
                SharedKeyGradients* shared)
      : kernels_(kernels), args_(args), a_(args.forward), n_(a_.head_dim), stride_(round_up(n_, kernels.nr)),
        memory_(scratch, backward_floats(kernels, a_.head_dim, shared ? 0 : plan.trees.key_rows[task.tree])),
        walk_(a_, plan, task, shared ? shared->of(task) : own_key_gradients(memory_, plan.trees.key_rows[task.tree] * stride_), shared) {
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
    walk_.run([&](const QueryTile& tile) { run_tile(tile); }, [&](const QuerySegment& s) { store_keys(s); });
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
      walk_.add(block, [&] {
        tile.for_parts(block, [&](const QueryTile& part, int first, const KeyBlock& seen) { run_part(part, first, seen, k, k_stride); });
      });
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
    add_to_keys(kernels_, part, block, block_.scores, dout_ + first * stride_, stride_, walk_.dv(block, stride_), stride_);
    add_to_keys(kernels_, part, block, block_.dscores, q_ + first * stride_, stride_, walk_.dk(block, stride_), stride_);  // q_ holds scale times q
  }

  void store_keys(const QuerySegment& s) {
    const KeySpan& own = own_span(a_, s);
    for (int64_t i = 0; i < own.length; ++i) {
      const int64_t col = walk_.kv_head() * n_;
      kernels_.convert(row_pointer(args_.dk, own.row + i, col), args_.dk.dtype, walk_.dk(s, stride_) + i * stride_, DType::f32, n_, 1.0f);
      kernels_.convert(row_pointer(args_.dv, own.row + i, col), args_.dv.dtype, walk_.dv(s, stride_) + i * stride_, DType::f32, n_, 1.0f);
    }
  }

  const Kernels& kernels_;
  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  int64_t n_, stride_;
  TileMemory memory_;
  BackwardWalk walk_;
  float *q_, *dout_, *q_columns_, *dout_columns_, *dq_, *k_panels_, *v_panels_, *k_rows_, *position_, *lse_, *delta_;
  double* imbalance_;
  AttentionBlock block_;
};

}  // namespace

void attention_backward(Backend* backend, const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  check_attention_backward(args);
  const BackwardPlan plan = plan_backward(a, backend->pool.threads());
  const bool tiles = backward_uses_tiles(*backend, args);
  std::optional<SharedKeyGradients> shared;
  if (plan.cut) shared.emplace(*backend, plan, a.n_kv_heads, round_up(a.head_dim, tiles ? kTilePanel : backend->kernels.nr));
  backend->pool.parallel_for(static_cast<int64_t>(plan.tasks.size()), [&](int64_t i, int thread) {
    const BackwardTask& task = plan.tasks[static_cast<size_t>(i)];
    Scratch& scratch = backend->local[static_cast<size_t>(thread)];
    SharedKeyGradients* sums = shared ? &*shared : nullptr;
    try {
      if (tiles) attention_backward_by_tiles(backend, scratch, args, plan, task, sums);
      else TilesBackward(backend->kernels, scratch, args, plan, task, sums).run();
    } catch (...) {
      if (sums) sums->fail(std::current_exception());  // others wait for this task
      throw;
    }
  });
}

}  // namespace rlhi::ops
