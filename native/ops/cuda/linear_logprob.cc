// Log-probabilities of target tokens under h W^T, by pieces of the vocabulary: a product, then the kernels.
//
// Pieces are cut at multiples of kPiece from the start of the vocabulary, whatever the number of rows and whether the logits
// are kept or not, so that each is always computed by the same algorithm.
#include <algorithm>

#include "ops/checks.h"
#include "ops/cuda/backend.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int64_t kPiece = 4 * kVocabBlock;  // columns

// Logits [N, count] of columns [first, first + count), in the caller's buffer or in scratch.
Tensor place_of_logits(CudaBackend& cuda, const LinearLogprobArgs& a, int64_t first, int64_t count) {
  if (a.keep_logits) return a.keep_logits.col_range(first, count);
  return Tensor(cuda.logits.bytes(static_cast<size_t>(a.h.rows * kPiece) * sizeof(float)), DType::f32, a.h.rows, count, kPiece);
}

void make_logits(CudaBackend& cuda, const LinearLogprobArgs& a, int64_t first, const Tensor& logits) {
  GemmArgs g;
  g.form = GemmForm::nt;
  g.a = a.h;
  g.b = a.w.row_range(first, logits.cols);
  g.c = logits;
  multiply(cuda, g, a.w.rows);
}

void check_weight(const char* op, const LinearLogprobArgs& a) {
  check(static_cast<bool>(a.w), ErrorCode::unsupported, op, ": the CUDA backend packs no weights, and w is missing");
}

float* floats(DeviceScratch& scratch, int64_t n) { return static_cast<float*>(scratch.bytes(static_cast<size_t>(n) * sizeof(float))); }

}  // namespace

void linear_logprob(Backend* backend, const LinearLogprobArgs& a) {
  check_logprob("linear_logprob", a);
  check_weight("linear_logprob", a);
  const int64_t rows = a.h.rows, vocab = a.w.rows;
  if (rows == 0) return;
  CudaBackend& cuda = enter(backend);
  auto* statistics = static_cast<HeadStatistics*>(cuda.statistics.bytes(static_cast<size_t>(rows) * sizeof(HeadStatistics)));
  const int32_t* targets = cuda.arrays.on_device(a.targets, rows);
  for (int64_t first = 0; first < vocab; first += kPiece) {
    const Tensor logits = place_of_logits(cuda, a, first, std::min(kPiece, vocab - first));
    make_logits(cuda, a, first, logits);
    logprob_statistics(cuda.launch, logits, first, targets, statistics);
  }
  logprob_finish(cuda.launch, statistics, rows, a.logps, a.lse);
}

void linear_logprob_backward(Backend* backend, const LinearLogprobBackwardArgs& a) {
  check_logprob_backward(a);
  const LinearLogprobArgs& f = a.forward;
  const int64_t rows = f.h.rows, vocab = f.w.rows;
  if (rows == 0) return;
  CudaBackend& cuda = enter(backend);
  const int32_t* targets = cuda.arrays.on_device(f.targets, rows);
  // dh is summed over pieces in f32.
  const Tensor dh = a.dh.dtype == DType::f32 ? a.dh : Tensor(floats(cuda.gradient, rows * f.h.cols), DType::f32, rows, f.h.cols);
  const bool narrow = f.h.dtype == DType::bf16 && f.w.dtype == DType::bf16;
  for (int64_t first = 0; first < vocab; first += kPiece) {
    const Tensor logits = place_of_logits(cuda, f, first, std::min(kPiece, vocab - first));
    if (!f.keep_logits) make_logits(cuda, f, first, logits);
    // For products in bf16 the logits' gradient is rounded, over the logits themselves.
    const Tensor d = narrow ? Tensor(logits.data, DType::bf16, rows, logits.cols, 2 * logits.row_stride) : logits;
    logprob_gradient(cuda.launch, d, logits, first, targets, f.lse, a.dlogps);
    GemmArgs to_h;
    to_h.form = GemmForm::nn;
    to_h.a = d, to_h.b = f.w.row_range(first, logits.cols), to_h.c = dh;
    to_h.accumulate = first > 0;
    multiply(cuda, to_h, 0);
    if (!a.dw) continue;
    GemmArgs to_w;
    to_w.form = GemmForm::tn;
    to_w.a = d, to_w.b = f.h, to_w.c = a.dw.row_range(first, logits.cols);
    to_w.accumulate = a.accumulate;
    multiply(cuda, to_w, 0);
  }
  if (dh.data != a.dh.data) move_rows(cuda.launch, a.dh, nullptr, dh, nullptr, rows);
}

}  // namespace rlhi::ops::cuda
