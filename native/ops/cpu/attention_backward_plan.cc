#include "ops/cpu/attention_backward_plan.h"

#include <cstring>
#include <thread>

#include "ops/cpu/list_schedule.h"

namespace rlhi::ops {
namespace {

constexpr double kWorthCutting = 1.25;       // of the mean share: tiles that share sums move them between cores

// The tree's tiles from the last to the first: the later ones of a segment see more keys and should not be begun last.
std::vector<TreeTile> tiles_of(const AttentionArgs& a, const std::vector<int64_t>& segments) {
  std::vector<TreeTile> tiles;
  const int group = a.n_heads / a.n_kv_heads;
  for (auto i = segments.rbegin(); i != segments.rend(); ++i) {
    const QuerySegment& s = a.segments[*i];
    const int64_t columns = static_cast<int64_t>(s.length) * group;
    for (int64_t first = (columns - 1) / kTileColumns * kTileColumns; first >= 0; first -= kTileColumns) {
      const QueryTile tile{a, s, 0, group, first, static_cast<int>(std::min<int64_t>(kTileColumns, columns - first))};
      double cost = 0;
      tile.for_key_blocks([&](const KeyBlock& block) { cost += static_cast<double>(block.keys) * tile.columns; });
      tiles.push_back({*i, first, tile.columns, 0, cost});
    }
  }
  return tiles;
}

double cost_of(const std::vector<TreeTile>& tiles) {
  double cost = 0;
  for (const TreeTile& t : tiles) cost += t.cost;
  return cost;
}

// Blocks of keys are the same to all segments that see them if every span begins at a multiple of them within its owner.
bool blocks_agree(const AttentionArgs& a, const AttentionTrees& trees) {
  for (size_t tree = 0; tree < trees.segments.size(); ++tree) {
    for (const int64_t i : trees.segments[tree]) {
      const QuerySegment& s = a.segments[i];
      for (int j = 0; j < s.n_spans; ++j) {
        const auto span = static_cast<size_t>(s.first_span + j);
        const int64_t begin = trees.own_row[span];
        if (a.spans[span].length > 0 && begin % kKeyBlock != 0) return false;
      }
    }
  }
  return true;
}

void take_turns(const AttentionArgs& a, BackwardPlan& plan) {
  for (size_t tree = 0; tree < plan.tiles.size(); ++tree) {
    std::vector<int32_t> seen(static_cast<size_t>(plan.trees.key_rows[tree] / kTilePanel));
    for (TreeTile& t : plan.tiles[tree]) {
      t.first_turn = plan.turns.size();
      const QueryTile tile{a, a.segments[t.segment], 0, a.n_heads / a.n_kv_heads, t.first, t.columns};
      tile.for_key_blocks([&](const KeyBlock& block) {
        plan.turns.push_back(
            seen[static_cast<size_t>((plan.trees.span_offset[static_cast<size_t>(block.span)] + block.offset) / kTilePanel)]++);
      });
    }
  }
}

// Every tile a task: of the trees' next ones always the largest, for every head.
void cut_into_tiles(BackwardPlan& plan, int n_kv_heads) {
  const auto smaller = [&](const BackwardTask& x, const BackwardTask& y) {
    const double cx = plan.tiles[x.tree][x.first_tile].cost, cy = plan.tiles[y.tree][y.first_tile].cost;
    return cx != cy ? cx < cy : x.tree > y.tree;
  };
  std::priority_queue<BackwardTask, std::vector<BackwardTask>, decltype(smaller)> next(smaller);
  for (size_t tree = 0; tree < plan.tiles.size(); ++tree) next.push({tree, 0, 1, 0});
  while (!next.empty()) {
    BackwardTask task = next.top();
    next.pop();
    for (task.kv_head = 0; task.kv_head < n_kv_heads; ++task.kv_head) plan.tasks.push_back(task);
    if (++task.first_tile < plan.tiles[task.tree].size()) next.push(task);
  }
}

}  // namespace

BackwardPlan plan_backward(const AttentionArgs& a, int threads) {
  BackwardPlan plan;
  plan.trees = find_trees(a);
  std::vector<double> costs;
  for (size_t tree = 0; tree < plan.trees.segments.size(); ++tree) {
    plan.tiles.push_back(tiles_of(a, plan.trees.segments[tree]));
    costs.insert(costs.end(), static_cast<size_t>(a.n_kv_heads), cost_of(plan.tiles.back()));
  }
  // No more heads than threads: then the shared sums take no more memory than those of the threads would.
  plan.cut = a.n_kv_heads <= threads && longest_share(costs, threads) > kWorthCutting && blocks_agree(a, plan.trees);
  if (plan.cut) {
    take_turns(a, plan);
    cut_into_tiles(plan, a.n_kv_heads);
    return plan;
  }
  for (size_t tree = 0; tree < plan.tiles.size(); ++tree) {
    for (int g = 0; g < a.n_kv_heads; ++g) plan.tasks.push_back({tree, 0, plan.tiles[tree].size(), g});
  }
  return plan;
}

SharedKeyGradients::SharedKeyGradients(Backend& backend, const BackwardPlan& plan, int n_kv_heads, int64_t stride)
    : rows_(plan.trees.key_rows), n_kv_heads_(n_kv_heads), stride_(stride) {
  int64_t rows = 0;
  for (const int64_t r : rows_) {
    rows_before_.push_back(rows);
    rows += r;
  }
  const int64_t floats = 2 * rows * n_kv_heads * stride, blocks = rows / kTilePanel * n_kv_heads;
  sums_ = backend.key_gradients.floats(floats);
  for_ranges(
      backend, floats, 65536,
      [&](int64_t begin, int64_t end, int) { std::memset(sums_ + begin, 0, static_cast<size_t>(end - begin) * sizeof(float)); },
      kLineElements);
  added_ = std::make_unique<std::atomic<int32_t>[]>(static_cast<size_t>(blocks));
  tiles_left_ = std::make_unique<std::atomic<int64_t>[]>(rows_.size() * static_cast<size_t>(n_kv_heads));
  for (size_t i = 0; i < rows_.size() * static_cast<size_t>(n_kv_heads); ++i) {
    tiles_left_[i].store(static_cast<int64_t>(plan.tiles[i / static_cast<size_t>(n_kv_heads)].size()), std::memory_order_relaxed);
  }
}

KeyGradients SharedKeyGradients::of(const BackwardTask& task) const {
  const int64_t rows = rows_[task.tree], row = rows_before_[task.tree] * n_kv_heads_ + task.kv_head * rows;
  float* dk = sums_ + 2 * row * stride_;
  return {dk, dk + rows * stride_, added_.get() + row / kTilePanel,
          tiles_left_.get() + task.tree * static_cast<size_t>(n_kv_heads_) + static_cast<size_t>(task.kv_head)};
}

void SharedKeyGradients::wait(const std::atomic<int32_t>& added, int32_t tiles) const {
  constexpr int kSpins = 4096;               // some tens of microseconds; then others may need the core
  for (int spins = 0; added.load(std::memory_order_acquire) != tiles; ++spins) {
    if (failed_.load(std::memory_order_acquire)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      std::rethrow_exception(error_);
    }
    if (spins > kSpins) std::this_thread::yield();
  }
}

void SharedKeyGradients::fail(std::exception_ptr error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failed_.load(std::memory_order_relaxed)) return;
  error_ = std::move(error);
  failed_.store(true, std::memory_order_release);
}

}  // namespace rlhi::ops
