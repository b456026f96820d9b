#include "ops/cuda/attention_lists.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <tuple>

#include "base/error.h"

namespace rlhi::ops::cuda {
namespace {

template <class T>
bool same_bytes(const std::vector<T>& kept, const T* given, int64_t n) {
  return static_cast<int64_t>(kept.size()) == n && (n == 0 || std::memcmp(kept.data(), given, static_cast<size_t>(n) * sizeof(T)) == 0);
}

// Keys that the rows [first, last) of a segment may see, roughly: what a tile costs.
int64_t keys_in_sight(const AttentionArgs& a, const QuerySegment& s, int64_t first, int64_t last) {
  const int64_t keys = s.position + last;
  return a.window > 0 ? std::min<int64_t>(keys, a.window + last - first) : keys;
}

std::vector<QueryTile> cut_queries(const AttentionArgs& a, int rows, bool skip_single) {
  struct Weighed {
    QueryTile tile;
    int64_t keys;
  };
  std::vector<Weighed> weighed;
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    if (skip_single && s.length == 1) continue;
    for (int32_t first = 0; first < s.length; first += rows)
      weighed.push_back({{static_cast<int32_t>(i), first}, keys_in_sight(a, s, first, std::min(first + rows, s.length))});
  }
  std::stable_sort(weighed.begin(), weighed.end(), [](const Weighed& x, const Weighed& y) { return x.keys > y.keys; });
  std::vector<QueryTile> tiles;
  for (const Weighed& w : weighed) tiles.push_back(w.tile);
  return tiles;
}

// A query at `position` sees some of the keys at [begin, end).
bool in_sight(const AttentionArgs& a, int64_t position, int64_t begin, int64_t end) {
  return begin <= position && (a.window == 0 || end > position - a.window + 1);
}

// Answers grow by a token a step: lengths in coarse steps make most steps the launches of the one before (repeated_work.h).
int64_t in_coarse_steps(int64_t n) {
  const int64_t step = std::max<int64_t>(16, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n))) / 4);
  return (n + step - 1) / step * step;
}

// Keys that several segments see, samples of one prompt, are read once for as many of them as a split takes.
void cut_decoding(const AttentionArgs& a, ForwardLists& lists) {
  constexpr int32_t kKeys = kDecodeBlocks * kKeyBlock;
  const auto most = static_cast<size_t>(decode_queries(a));
  std::vector<std::vector<DecodeQuery>> queries;                          // of each split
  std::map<std::tuple<int32_t, int32_t, int32_t>, size_t> open;           // row, position and number of keys to the split with room
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    if (s.length != 1) continue;
    const auto begin = lists.n_blocks;
    for (int32_t j = s.first_span; j < s.first_span + s.n_spans; ++j) {
      const KeySpan& span = a.spans[j];
      for (int32_t first = 0; first < span.length; first += kKeys) {
        const int32_t n = std::min(kKeys, span.length - first), position = span.position + first;
        if (!in_sight(a, s.position, position, static_cast<int64_t>(position) + n)) continue;
        const auto [place, is_new] = open.try_emplace({span.row + first, position, n}, queries.size());
        if (!is_new && queries[place->second].size() == most) place->second = queries.size();
        if (place->second == queries.size()) {
          lists.splits.push_back({span.row + first, position, n, 0, 0});
          queries.emplace_back();
        }
        queries[place->second].push_back({static_cast<int32_t>(i), static_cast<int32_t>(lists.n_blocks)});
        lists.n_blocks += (n + kKeyBlock - 1) / kKeyBlock;
      }
    }
    lists.segments.push_back({static_cast<int32_t>(i), static_cast<int32_t>(begin), static_cast<int32_t>(lists.n_blocks - begin)});
  }
  for (size_t i = 0; i < queries.size(); ++i) {
    lists.splits[i].first_query = static_cast<int32_t>(lists.queries.size()), lists.splits[i].n_queries = static_cast<int32_t>(queries[i].size());
    lists.queries.insert(lists.queries.end(), queries[i].begin(), queries[i].end());
  }
  lists.splits.resize(static_cast<size_t>(in_coarse_steps(static_cast<int64_t>(lists.splits.size()))));  // those added have no keys
  lists.n_blocks = in_coarse_steps(lists.n_blocks);
}

// Queries of a segment that may see some of the keys at [begin, end): what a tile of keys costs.
int64_t queries_in_sight(const AttentionArgs& a, const QuerySegment& s, int64_t begin, int64_t end) {
  const int64_t first = std::max<int64_t>(s.position, begin), last = static_cast<int64_t>(s.position) + s.length;
  return std::max<int64_t>(0, (a.window > 0 ? std::min(last, end + a.window - 1) : last) - first);
}

const KeySpan& own_span(const AttentionArgs& a, const QuerySegment& s) { return a.spans[s.first_span + s.n_spans - 1]; }

// For each segment, who sees its own rows: by visiting segment, then by span.
std::vector<std::vector<Visitor>> find_visitors(const AttentionArgs& a) {
  std::vector<int32_t> by_row;
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    if (s.length == 0) continue;
    check(s.n_spans >= 1 && own_span(a, s).length == s.length, ErrorCode::invalid_argument, "attention_backward: the last span of segment ", i,
          " is not its own rows");
    by_row.push_back(static_cast<int32_t>(i));
  }
  const auto own_row = [&](int32_t i) { return own_span(a, a.segments[i]).row; };
  std::sort(by_row.begin(), by_row.end(), [&](int32_t x, int32_t y) { return own_row(x) < own_row(y); });
  std::vector<std::vector<Visitor>> visitors(static_cast<size_t>(a.n_segments));
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    for (int32_t j = s.first_span; s.length > 0 && j < s.first_span + s.n_spans; ++j) {
      const KeySpan& span = a.spans[j];
      if (span.length == 0) continue;
      const auto after = std::upper_bound(by_row.begin(), by_row.end(), span.row, [&](int32_t row, int32_t k) { return row < own_row(k); });
      check(after != by_row.begin(), ErrorCode::invalid_argument, "attention_backward: keys at row ", span.row, " belong to no segment");
      const KeySpan& owner = own_span(a, a.segments[*(after - 1)]);
      check(span.row + static_cast<int64_t>(span.length) <= owner.row + static_cast<int64_t>(owner.length), ErrorCode::invalid_argument,
            "attention_backward: keys at rows ", span.row, " to ", span.row + span.length, " are not of one segment");
      visitors[static_cast<size_t>(*(after - 1))].push_back({static_cast<int32_t>(i), j});
    }
  }
  return visitors;
}

void cut_keys(const AttentionArgs& a, int rows, BackwardLists& lists) {
  const std::vector<std::vector<Visitor>> visitors = find_visitors(a);
  struct Weighed {
    KeyTile tile;
    int64_t queries;
  };
  std::vector<Weighed> weighed;
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    for (int32_t first = 0; first < s.length; first += rows) {
      const int64_t begin = own_span(a, s).row + static_cast<int64_t>(first), end = begin + std::min(rows, s.length - first);
      Weighed w{{static_cast<int32_t>(i), first, static_cast<int32_t>(lists.visitors.size()), 0}, 0};
      for (const Visitor& v : visitors[static_cast<size_t>(i)]) {
        const KeySpan& span = a.spans[v.span];
        if (span.row >= end || span.row + static_cast<int64_t>(span.length) <= begin) continue;
        lists.visitors.push_back(v);
        const int64_t offset = span.position - static_cast<int64_t>(span.row);  // of positions from rows
        w.queries += queries_in_sight(a, a.segments[v.segment], begin + offset, end + offset);
      }
      w.tile.n_visitors = static_cast<int32_t>(lists.visitors.size()) - w.tile.first_visitor;
      weighed.push_back(w);
    }
  }
  std::stable_sort(weighed.begin(), weighed.end(), [](const Weighed& x, const Weighed& y) { return x.queries > y.queries; });
  for (const Weighed& w : weighed) lists.key_tiles.push_back(w.tile);
}

}  // namespace

bool AttentionLists::Source::same(const AttentionArgs& a, int first, int second) const {
  return window == a.window && first_rows == first && second_rows == second && same_bytes(segments, a.segments, a.n_segments) &&
         same_bytes(spans, a.spans, a.n_spans);
}

void AttentionLists::Source::take(const AttentionArgs& a, int first, int second) {
  segments.assign(a.segments, a.segments + a.n_segments);
  spans.assign(a.spans, a.spans + a.n_spans);
  window = a.window, first_rows = first, second_rows = second;
}

const ForwardLists& AttentionLists::forward(const AttentionArgs& a, const AttentionPlan& plan) {
  if (forward_source_.same(a, plan.forward_rows, plan.decode)) return forward_;
  forward_ = {};
  forward_.tiles = cut_queries(a, plan.forward_rows, plan.decode);
  if (plan.decode) cut_decoding(a, forward_);
  forward_source_.take(a, plan.forward_rows, plan.decode);
  return forward_;
}

const BackwardLists& AttentionLists::backward(const AttentionArgs& a, const AttentionPlan& plan) {
  if (backward_source_.same(a, plan.dq_rows, plan.key_rows)) return backward_;
  backward_ = {};
  backward_source_ = {};
  backward_.query_tiles = cut_queries(a, plan.dq_rows, false);
  cut_keys(a, plan.key_rows, backward_);
  backward_source_.take(a, plan.dq_rows, plan.key_rows);
  return backward_;
}

}  // namespace rlhi::ops::cuda
