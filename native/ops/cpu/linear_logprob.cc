// Log-probabilities of target tokens under h W^T, by blocks of the vocabulary.
//
// A block's logits are made, reduced to (maximum, sum of exponentials), and forgotten unless the caller keeps them.
// Blocks are combined in double, in order. The backward turns each block of logits into d logits in place and adds two
// products: to dh and to dw.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kVocabBlock = 2048;  // columns of one block: a multiple of every nr and kc

// logits [N, count] of the vocabulary's columns [first, first + count); first is a multiple of kVocabBlock.
void block_logits(Backend* backend, const LinearLogprobArgs& a, int64_t first, int64_t count, const Tensor& logits) {
  PackedWeight part;
  gemm(backend, head_product(*backend, a, first, count, logits, part));
}

struct Statistics {  // of one row so far
  double maximum = -std::numeric_limits<double>::infinity(), sum = 0, target = 0;
};

void add_block(const Kernels& kernels, Statistics& s, const float* logits, int64_t first, int64_t count, int32_t target) {
  const float maximum = kernels.row_max(logits, count);
  const double sum = static_cast<double>(kernels.row_sum_exp(logits, count, maximum));
  const double together = std::max(s.maximum, static_cast<double>(maximum));
  s.sum = s.sum * std::exp(s.maximum - together) + sum * std::exp(static_cast<double>(maximum) - together);
  s.maximum = together;
  if (target >= first && target < first + count) s.target = static_cast<double>(logits[target - first]);
}

// Where products are made of bf16, blocks of logits are used as they end: linear_logprob_tiles.cc.
bool by_tiles(const Backend& backend, const LinearLogprobArgs& a) {
  return backend.tiles && a.h.dtype == DType::bf16 && (a.packed_w ? a.packed_w->dtype : a.w.dtype) == DType::bf16;
}

// logits[i] = dlogps[i] * (onehot - softmax), in place
void block_gradient(Backend* backend, const LinearLogprobBackwardArgs& a, int64_t first, int64_t count, const Tensor& logits) {
  const LinearLogprobArgs& f = a.forward;
  for_ranges(*backend, f.h.rows, row_grain(count), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = reinterpret_cast<float*>(row_pointer(logits, i));
      backend->kernels.softmax_gradient(row, count, f.lse[i], a.dlogps[i]);
      if (f.targets[i] >= first && f.targets[i] < first + count) row[f.targets[i] - first] += a.dlogps[i];
    }
  });
}

// The gradient of the logits of a block of columns, f32, or bf16 where products read that.
Tensor gradient_of_block(Backend* backend, const LinearLogprobBackwardArgs& a, int64_t first, int64_t count) {
  const LinearLogprobArgs& f = a.forward;
  const auto scratch = [&](DType dtype) { return Tensor(backend->logits.floats(f.h.rows * kVocabBlock), dtype, f.h.rows, count, kVocabBlock); };
  if (by_tiles(*backend, f)) {
    const Tensor gradient = scratch(DType::bf16);
    head_gradient_tiles(backend, a, first, count, gradient);
    return gradient;
  }
  const Tensor logits = f.keep_logits ? f.keep_logits.col_range(first, count) : scratch(DType::f32);
  if (!f.keep_logits) block_logits(backend, f, first, count, logits);
  block_gradient(backend, a, first, count, logits);
  return logits;
}

}  // namespace

GemmArgs head_product(const Backend& backend, const LinearLogprobArgs& a, int64_t first, int64_t count, const Tensor& c, PackedWeight& part) {
  GemmArgs g;
  g.form = GemmForm::nt;
  g.a = a.h, g.c = c;
  if (a.packed_w) {
    part = *a.packed_w;
    part.data = static_cast<char*>(part.data) + packed_offset(backend, part, first);
    part.n = count;
    g.packed_b = &part;
  } else {
    g.b = a.w.row_range(first, count);
  }
  return g;
}

void linear_logprob(Backend* backend, const LinearLogprobArgs& a) {
  check_logprob("linear_logprob", a);
  const int64_t rows = a.h.rows, vocab = a.packed_w ? a.packed_w->n : a.w.rows;
  if (rows == 0) return;
  if (by_tiles(*backend, a)) return linear_logprob_tiles(backend, a);
  auto* statistics = static_cast<Statistics*>(backend->statistics.bytes(static_cast<size_t>(rows) * sizeof(Statistics)));
  std::fill(statistics, statistics + rows, Statistics{});
  for (int64_t first = 0; first < vocab; first += kVocabBlock) {
    const int64_t count = std::min(kVocabBlock, vocab - first);
    const Tensor logits = a.keep_logits ? a.keep_logits.col_range(first, count)
                                        : Tensor(backend->logits.floats(rows * kVocabBlock), DType::f32, rows, count, kVocabBlock);
    block_logits(backend, a, first, count, logits);
    for_ranges(*backend, rows, row_grain(count), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        add_block(backend->kernels, statistics[i], reinterpret_cast<const float*>(row_pointer(logits, i)), first, count, a.targets[i]);
      }
    });
  }
  for (int64_t i = 0; i < rows; ++i) {
    const double lse = statistics[i].maximum + std::log(statistics[i].sum);
    a.lse[i] = static_cast<float>(lse);
    a.logps[i] = static_cast<float>(statistics[i].target - lse);
  }
}

void linear_logprob_backward(Backend* backend, const LinearLogprobBackwardArgs& a) {
  check_logprob_backward(a);
  const LinearLogprobArgs& f = a.forward;
  const int64_t rows = f.h.rows, vocab = f.w.rows;
  if (rows == 0) return;
  // dh is summed over blocks in f32
  const Tensor dh = a.dh.dtype == DType::f32 ? a.dh : Tensor(backend->gradient.floats(rows * f.h.cols), DType::f32, rows, f.h.cols);
  for (int64_t first = 0; first < vocab; first += kVocabBlock) {
    const int64_t count = std::min(kVocabBlock, vocab - first);
    const Tensor gradient = gradient_of_block(backend, a, first, count);
    GemmArgs to_h;
    to_h.form = GemmForm::nn;
    to_h.a = gradient;
    to_h.b = f.w.row_range(first, count);
    to_h.c = dh;
    to_h.accumulate = first > 0;
    gemm(backend, to_h);
    if (a.dw) {
      GemmArgs to_w;
      to_w.form = GemmForm::tn;
      to_w.a = gradient;
      to_w.b = f.h;
      to_w.c = a.dw.row_range(first, count);
      to_w.accumulate = a.accumulate;
      gemm(backend, to_w);
    }
  }
  if (dh.data != a.dh.data) copy(backend, a.dh, dh);
}

}  // namespace rlhi::ops
