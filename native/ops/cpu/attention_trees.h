// The trees that segments of queries make by the keys they share: what the backward of attention sums over.
//
// A key's gradient sums over the queries of its own segment and of all that descend from it. Segments joined by shared keys make a
// tree, and a tree's gradients do not depend on the trees beside it.
#pragma once
#include <vector>

#include "ops/cpu/backend.h"

namespace rlhi::ops {

struct AttentionTrees {
  std::vector<std::vector<int64_t>> segments;  // of each tree, in order
  std::vector<int64_t> key_rows;               // of each tree: its segments' rows, each in whole panels, so that no two share one
  std::vector<int64_t> span_offset;            // a span's first row among its tree's gathered key rows, and
  std::vector<int64_t> own_row;                // among those of the segment that owns it
};

inline const KeySpan& own_span(const AttentionArgs& a, const QuerySegment& s) { return a.spans[s.first_span + s.n_spans - 1]; }

// Throws invalid_argument where a segment's last span is not its own rows, or keys belong to no segment.
AttentionTrees find_trees(const AttentionArgs& args);

}  // namespace rlhi::ops
