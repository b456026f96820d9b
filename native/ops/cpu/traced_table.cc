#include "ops/cpu/traced_table.h"

#include <algorithm>

namespace rlhi::ops {

void OperationCost::add(const GemmArgs& g) {
  const double m = static_cast<double>(g.c.rows), n = static_cast<double>(g.swiglu_c ? 2 * g.c.cols : g.c.cols);
  const double k = static_cast<double>(g.form == GemmForm::tn ? g.a.rows : g.a.cols);
  flops += 2 * m * n * k;
  bytes += static_cast<double>(g.a.bytes() + (g.accumulate ? 2 : 1) * g.c.bytes());
  bytes += n * k * static_cast<double>(dtype_size(g.packed_b ? g.packed_b->dtype : g.b.dtype));
}

// Pairs of a query and a key it sees, times flops_a_pair, times head_dim, over all heads.
void OperationCost::add_attention(const AttentionArgs& a, double flops_a_pair) {
  double pairs = 0;
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    for (int64_t row = 0; row < s.length; ++row) {
      const int64_t position = s.position + row;
      for (int j = 0; j < s.n_spans; ++j) {
        const KeySpan& span = a.spans[s.first_span + j];
        const int64_t first = a.window > 0 ? std::max<int64_t>(span.position, position - a.window + 1) : span.position;
        pairs += static_cast<double>(std::max<int64_t>(0, std::min<int64_t>(span.position + span.length, position + 1) - first));
      }
    }
  }
  flops += flops_a_pair * pairs * a.n_heads * a.head_dim;
  for (const Tensor* t : {&a.q, &a.out}) add(*t);
}

void OperationCost::add(const AttentionBackwardArgs& a) {
  add_attention(a.forward, 10);
  for (const Tensor* t : {&a.forward.k, &a.forward.v, &a.dout, &a.dq, &a.dk, &a.dv}) add(*t);
}

void OperationCost::add(const LinearLogprobArgs& a) {
  const double rows = static_cast<double>(a.h.rows), vocab = static_cast<double>(a.packed_w ? a.packed_w->n : a.w.rows);
  flops += 2 * rows * vocab * static_cast<double>(a.h.cols);
  bytes += vocab * static_cast<double>(a.h.cols * dtype_size(a.packed_w ? a.packed_w->dtype : a.w.dtype));
  add(a.h);
  add(a.keep_logits);
}

void OperationCost::add(const LinearLogprobBackwardArgs& a) {
  const double product = 2 * static_cast<double>(a.forward.h.rows) * static_cast<double>(a.forward.w.rows) * static_cast<double>(a.forward.h.cols);
  flops += product * ((a.dw ? 2 : 1) + (a.forward.keep_logits ? 0 : 1));
  for (const Tensor* t : {&a.forward.h, &a.forward.w, &a.forward.keep_logits, &a.dh, &a.dw}) add(*t);
}

void OperationCost::add(const AdamWArgs& a) {
  // Four bytes of weight (bf16 has its remainder) and two moments are read and written, four bytes of gradient read.
  bytes += static_cast<double>(a.n) * static_cast<double>(2 * 4 + 4 * dtype_size(a.moments) + 4);
}

}  // namespace rlhi::ops
