// Layouts of packed prefix trees that the tests of attention share, whatever computes it.
#pragma once
#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace rlhi::test {

struct Layout {
  std::vector<ops::QuerySegment> segments;
  std::vector<ops::KeySpan> spans;
  int32_t rows = 0;            // of q
  int32_t key_rows = 0;

  // Adds a segment of new rows below `parent` (-1: a new tree), which sees all that its parent sees, then itself.
  int add(int32_t length, int parent = -1) {
    ops::QuerySegment s{rows, length, 0, static_cast<int32_t>(spans.size()), 0};
    if (parent >= 0) {
      const ops::QuerySegment& p = segments[static_cast<size_t>(parent)];
      for (int i = 0; i < p.n_spans; ++i) spans.push_back(spans[static_cast<size_t>(p.first_span + i)]);
      s.position = p.position + p.length;
    }
    spans.push_back({rows, length, s.position});
    s.n_spans = static_cast<int32_t>(spans.size()) - s.first_span;
    segments.push_back(s);
    rows += length;
    key_rows = rows;
    return static_cast<int>(segments.size()) - 1;
  }
};

inline Layout pair_of(int32_t prompt, int32_t chosen, int32_t rejected) {
  Layout t;
  const int p = t.add(prompt);
  t.add(chosen, p);
  t.add(rejected, p);
  return t;
}

struct Heads {
  int n, kv, dim;
};

}  // namespace rlhi::test
