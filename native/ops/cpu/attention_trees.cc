#include "ops/cpu/attention_trees.h"

#include <algorithm>
#include <numeric>

namespace rlhi::ops {
namespace {

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

}  // namespace

AttentionTrees find_trees(const AttentionArgs& a) {
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
  AttentionTrees trees;
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
    trees.key_rows[static_cast<size_t>(tree)] += round_up(a.segments[i].length, kTilePanel);
  }
  trees.span_offset.assign(static_cast<size_t>(a.n_spans), 0);
  trees.own_row = trees.span_offset;
  for (size_t i = 0; i < owner.size(); ++i) {
    if (owner[i] < 0) continue;
    trees.own_row[i] = a.spans[i].row - own_row(owner[i]);
    trees.span_offset[i] = offset[static_cast<size_t>(owner[i])] + trees.own_row[i];
  }
  return trees;
}

}  // namespace rlhi::ops
