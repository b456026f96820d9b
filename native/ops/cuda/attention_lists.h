// The work lists of the attention kernels: which tiles of queries and keys there are, and who sees them. They follow from a
// micro-batch's segments and spans alone, so every layer asks for the same ones and they are kept until the next.
#pragma once
#include <vector>

#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

struct ForwardLists {
  std::vector<QueryTile> tiles;            // most keys first
  std::vector<DecodeSplit> splits;         // of segments of length 1, where the plan sends them to decoding
  std::vector<DecodeQuery> queries;        // of the splits
  std::vector<DecodeSegment> segments;
  int64_t n_blocks = 0;                    // of all splits
};

struct BackwardLists {
  std::vector<QueryTile> query_tiles;
  std::vector<KeyTile> key_tiles;
  std::vector<Visitor> visitors;
};

class AttentionLists {
 public:
  const ForwardLists& forward(const AttentionArgs& a, const AttentionPlan& plan);
  // Throws invalid_argument where a span lies outside of every segment's own rows.
  const BackwardLists& backward(const AttentionArgs& a, const AttentionPlan& plan);

 private:
  // What lists were made from.
  struct Source {
    std::vector<QuerySegment> segments;
    std::vector<KeySpan> spans;
    int window = -1, first_rows = 0, second_rows = 0;
    bool same(const AttentionArgs& a, int first, int second) const;
    void take(const AttentionArgs& a, int first, int second);
  };
  Source forward_source_, backward_source_;
  ForwardLists forward_;
  BackwardLists backward_;
};

}  // namespace rlhi::ops::cuda
