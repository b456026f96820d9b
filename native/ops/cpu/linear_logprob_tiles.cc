// Log-probabilities under h W^T where products are made by tiles of bf16: logits are used as their product ends, block by block, and
// only their gradient ever lies in memory.
#include <cmath>

#include "ops/cpu/backend.h"

namespace rlhi::ops {

void linear_logprob_tiles(Backend* backend, const LinearLogprobArgs& a) {
  const int64_t rows = a.h.rows, vocab = a.packed_w ? a.packed_w->n : a.w.rows, groups = ceil_of(vocab, kHeadPanels * kTilePanel);
  PackedWeight whole;
  const GemmArgs g = head_product(*backend, a, 0, vocab, Tensor(), whole);
  HeadSink head;
  head.targets = a.targets, head.groups = groups;
  head.maxima = backend->statistics.floats(rows * (2 * groups + 1));
  head.sums = head.maxima + rows * groups, head.target_logits = head.sums + rows * groups;
  head_tiles(backend, g, head, rows, vocab, a.h.cols);
  for (int64_t i = 0; i < rows; ++i) {
    float maximum = 0, sum = 0;
    backend->tiles->combine_exponentials(head.maxima + i * groups, head.sums + i * groups, groups, &maximum, &sum);
    const double lse = static_cast<double>(maximum) + std::log(static_cast<double>(sum));
    a.lse[i] = static_cast<float>(lse);
    a.logps[i] = static_cast<float>(static_cast<double>(head.target_logits[i]) - lse);
  }
}

// Of the vocabulary's columns [first, first + count).
void head_gradient_tiles(Backend* backend, const LinearLogprobBackwardArgs& a, int64_t first, int64_t count, const Tensor& gradient) {
  const LinearLogprobArgs& f = a.forward;
  PackedWeight part;
  const GemmArgs g = head_product(*backend, f, first, count, gradient, part);
  HeadSink head;
  head.targets = f.targets, head.first_column = first;
  head.lse = f.lse, head.dlogps = a.dlogps;
  head_tiles(backend, g, head, f.h.rows, count, f.h.cols);
}

}  // namespace rlhi::ops
