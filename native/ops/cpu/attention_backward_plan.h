// How the backward of attention is shared out.
//
// A key's gradient is one sum over the tiles of queries that see it, in one order: the tree's, from its last tile to its first. Where
// there are trees and key/value heads enough, one of each is a task and has that sum to itself. Where threads would be left over, each
// tile is a task of its own; the tiles of a tree and head then add to sums they share, block of keys by block of keys, each when the
// tiles before it have added. The sums and their bits are the same.
#pragma once
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>

#include "ops/cpu/attention_tile.h"
#include "ops/cpu/attention_trees.h"

namespace rlhi::ops {

struct TreeTile {
  int64_t segment, first;  // columns from `first`
  int columns;
  size_t first_turn;  // of the plan's turns: one for each block of keys it sees, in order
  double cost;  // scores it makes
};

struct BackwardTask {
  size_t tree, first_tile, tiles;
  int kv_head;
};

struct BackwardPlan {
  AttentionTrees trees;
  std::vector<std::vector<TreeTile>> tiles;  // of each tree, in order
  std::vector<int32_t> turns;  // how many tiles before this one see the block
  std::vector<BackwardTask> tasks;  // a task's tiles come after those before them in their tree
  bool cut = false;  // tiles are tasks

  QueryTile tile(const AttentionArgs& a, const BackwardTask& task, size_t i) const {
    const TreeTile& t = tiles[task.tree][task.first_tile + i];
    return {a, a.segments[t.segment], task.kv_head, a.n_heads / a.n_kv_heads, t.first, t.columns};
  }
};

BackwardPlan plan_backward(const AttentionArgs& args, int threads);

// The gradients of keys and values that a tree's tiles add to.
struct KeyGradients {
  float *dk = nullptr, *dv = nullptr;  // [the tree's key rows][stride]
  std::atomic<int32_t>* added = nullptr;  // tiles that have added to the block that begins at row i * kTilePanel; null: one task's own
  std::atomic<int64_t>* tiles_left = nullptr;
};

// A task's own, zero, of so many floats each.
inline KeyGradients own_key_gradients(TileMemory& memory, int64_t floats) {
  KeyGradients sums;
  for (float** p : {&sums.dk, &sums.dv}) {
    *p = memory.take(floats);
    std::memset(*p, 0, static_cast<size_t>(floats) * sizeof(float));
  }
  return sums;
}

// Those of all trees and heads, where tiles are tasks; zero at first.
class SharedKeyGradients {
 public:
  SharedKeyGradients(Backend& backend, const BackwardPlan& plan, int n_kv_heads, int64_t stride);
  KeyGradients of(const BackwardTask& task) const;
  // Waits until so many tiles have added to a block; rethrows what made another task fail.
  void wait(const std::atomic<int32_t>& added, int32_t tiles) const;
  void fail(std::exception_ptr error);

 private:
  std::vector<int64_t> rows_before_;  // of each tree
  std::vector<int64_t> rows_;
  int n_kv_heads_;
  int64_t stride_;
  float* sums_;
  std::unique_ptr<std::atomic<int32_t>[]> added_;
  std::unique_ptr<std::atomic<int64_t>[]> tiles_left_;
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

// One task's walk over its tiles, and its place among the others'.
class BackwardWalk {
 public:
  BackwardWalk(const AttentionArgs& a, const BackwardPlan& plan, const BackwardTask& task, KeyGradients sums,
               SharedKeyGradients* shared)
      : a_(a), plan_(plan), task_(task), sums_(sums), shared_(shared) {}

  int kv_head() const { return task_.kv_head; }
  // Sums of a block's keys, or of a segment's own.
  float* dk(const KeyBlock& block, int64_t stride) const { return sums_.dk + row_of(block) * stride; }
  float* dv(const KeyBlock& block, int64_t stride) const { return sums_.dv + row_of(block) * stride; }
  float* dk(const QuerySegment& s, int64_t stride) const { return sums_.dk + row_of(s) * stride; }
  float* dv(const QuerySegment& s, int64_t stride) const { return sums_.dv + row_of(s) * stride; }

  // run_tile(tile), then store(segment) for the segments whose gradients are complete. It calls add(block, f) once for every block
  // of the tile, in order.
  template <class RunTile, class Store>
  void run(const RunTile& run_tile, const Store& store) {
    for (size_t i = 0; i < task_.tiles; ++i) {
      next_turn_ = plan_.tiles[task_.tree][task_.first_tile + i].first_turn;
      run_tile(plan_.tile(a_, task_, i));
    }
    if (sums_.tiles_left && sums_.tiles_left->fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    for (const int64_t i : plan_.trees.segments[task_.tree]) store(a_.segments[i]);
  }
  // f adds to dk and dv of the block.
  template <class F>
  void add(const KeyBlock& block, const F& f) {
    if (!shared_) return f();
    const int32_t turn = plan_.turns[next_turn_++];
    std::atomic<int32_t>& added = sums_.added[row_of(block) / kTilePanel];
    shared_->wait(added, turn);
    f();
    added.store(turn + 1, std::memory_order_release);
  }

 private:
  int64_t row_of(const KeyBlock& block) const { return plan_.trees.span_offset[static_cast<size_t>(block.span)] + block.offset; }
  int64_t row_of(const QuerySegment& s) const { return plan_.trees.span_offset[static_cast<size_t>(s.first_span + s.n_spans - 1)]; }

  const AttentionArgs& a_;
  const BackwardPlan& plan_;
  const BackwardTask& task_;
  KeyGradients sums_;
  SharedKeyGradients* shared_;
  size_t next_turn_ = 0;
};

}  // namespace rlhi::ops
