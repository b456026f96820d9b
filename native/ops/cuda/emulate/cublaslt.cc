// cuBLASLt's interface over a plain loop, strict where the real one is: descriptors of shapes that do not fit, an algorithm
// used with less alignment than it was chosen for, or a bias of another type are refused. The first algorithm it offers
// splits the sum, which is refused where the preferences forbid it, the second only runs for many rows. For few rows it offers
// two more: one whose results differ in their last bits, and one whose results do not. Products of bf16 are summed as by
// warp_product and group_product, as a GPU's are by the tensor cores.
#include "ops/cuda/cublaslt.h"

#include <algorithm>
#include <cstring>

#include "base/dtype.h"
#include "ops/cuda/emulate/block.h"

namespace rlhi::ops::cuda::lt {

struct Context {};
struct MatrixLayout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
};
struct MatmulDesc {
  int32_t trans_a = kNone, trans_b = kNone, bias_type = -1;
  uint32_t epilogue = kEpilogueDefault;
  const void* bias = nullptr;
};
struct Preference {
  uint32_t reduction = ~0u, align_a = 256, align_b = 256, align_c = 256, align_d = 256;
  uint64_t workspace = 0;
};

namespace {

constexpr int kRefused = 7, kUnable = 15;  // CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED

constexpr uint64_t kOtherBits = 10;

// What an Algo's words hold here.
enum Word { kWordId, kWordSplit, kWordAlignA, kWordAlignB, kWordAlignC, kWordFewest, kWordMaySplit };

double element(const void* data, const MatrixLayout& m, uint64_t row, uint64_t col) {
  const auto at = static_cast<size_t>(static_cast<int64_t>(row) + static_cast<int64_t>(col) * m.ld);
  if (m.type == kF32) return static_cast<double>(static_cast<const float*>(data)[at]);
  return static_cast<double>(to_float(static_cast<const bf16*>(data)[at]));
}

template <class Term>
double full_sum(uint64_t n, const Term& term) {
  double sum = 0;
  for (uint64_t t = 0; t < n; ++t) sum += term(t);
  return sum;
}
template <class Term>
double tensor_core_sum(uint64_t n, const Term& term) {
  float sum = 0;
  for (uint64_t first = 0; first < n; first += 16) {
    float step = 0;
    for (uint64_t t = first; t < std::min(n, first + 16); ++t) step += static_cast<float>(term(t));
    sum += step;
  }
  return static_cast<double>(sum);
}

struct Sizes {
  uint64_t rows, cols, inner;
  bool fit;
};
Sizes sizes_of(const MatmulDesc& d, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& c) {
  const bool ta = d.trans_a == kTransposed, tb = d.trans_b == kTransposed;
  const uint64_t rows = ta ? a.cols : a.rows, inner = ta ? a.rows : a.cols, cols = tb ? b.rows : b.cols;
  return {rows, cols, inner, inner == (tb ? b.cols : b.rows) && c.rows == rows && c.cols == cols && a.type == b.type &&
                                 !(a.type == kF32 && c.type != kF32)};
}

bool aligned(const void* data, const MatrixLayout& m, uint64_t to) {
  const uint64_t stride = static_cast<uint64_t>(m.ld) * (m.type == kF32 ? 4 : 2);
  return (reinterpret_cast<uintptr_t>(data) | (m.cols > 1 ? stride : 0)) % to == 0;
}

int check_algo(Context*, MatmulDesc* d, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c, MatrixLayout*, const Algo* algo, HeuristicResult* result) {
  *result = {};
  result->algo = *algo;
  return sizes_of(*d, *a, *b, *c).fit && c->cols >= algo->data[kWordFewest] ? kSuccess : kUnable;
}

int heuristic(Context*, MatmulDesc* d, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c, MatrixLayout*, Preference* p, int requested,
              HeuristicResult* results, int* found) {
  if (!sizes_of(*d, *a, *b, *c).fit || requested < 3) return kRefused;
  *found = 3;
  const bool few = c->cols < 512 && d->trans_b == kNone;
  for (uint64_t at = 0; at < 3; ++at) {
    const uint64_t i = few && at < 2 ? at + kOtherBits : at;
    results[at] = {};
    const uint64_t words[8] = {i, i == 0 ? 4u : 1u, p->align_a, p->align_b, std::min(p->align_c, p->align_d), i == 1 ? 512u : 0u,
                               p->reduction & kReduceInOrder};
    std::memcpy(results[at].algo.data, words, sizeof words);
  }
  return kSuccess;
}

int get_attribute(const Algo* algo, int attribute, void* value, size_t bytes, size_t* written) {
  const auto word = static_cast<int32_t>(attribute == kAlgoSplitK ? algo->data[kWordSplit] : attribute == kAlgoId ? algo->data[kWordId] : 0);
  if (bytes != sizeof word) return kRefused;
  std::memcpy(value, &word, sizeof word);
  *written = sizeof word;
  return kSuccess;
}

int set_desc(MatmulDesc* d, int attribute, const void* value, size_t bytes) {
  const auto take = [&](auto& member) {
    if (bytes != sizeof member) return kRefused;
    std::memcpy(&member, value, bytes);
    return static_cast<int>(kSuccess);
  };
  switch (attribute) {
    case kTransA: return take(d->trans_a);
    case kTransB: return take(d->trans_b);
    case kEpilogue: return take(d->epilogue);
    case kBiasPointer: return take(d->bias);
    case kBiasType: return take(d->bias_type);
  }
  return kRefused;
}

int set_preference(Preference* p, int attribute, const void* value, size_t bytes) {
  const auto take = [&](auto& member) {
    if (bytes != sizeof member) return kRefused;
    std::memcpy(&member, value, bytes);
    return static_cast<int>(kSuccess);
  };
  switch (attribute) {
    case kMaxWorkspace: return take(p->workspace);
    case kReductionMask: return take(p->reduction);
    case kMinAlignmentA: return take(p->align_a);
    case kMinAlignmentB: return take(p->align_b);
    case kMinAlignmentC: return take(p->align_c);
    case kMinAlignmentD: return take(p->align_d);
  }
  return kRefused;
}

int matmul(Context*, MatmulDesc* d, const void* alpha, const void* a, MatrixLayout* la, const void* b, MatrixLayout* lb, const void* beta,
           const void* c, MatrixLayout* lc, void* result, MatrixLayout*, const Algo* algo, void*, size_t, runtime::Stream) {
  const Sizes s = sizes_of(*d, *la, *lb, *lc);
  const bool has_bias = d->epilogue == kEpilogueBias;
  if (!s.fit || c != result || *static_cast<const float*>(alpha) != 1 || (algo->data[kWordSplit] != 1 && !algo->data[kWordMaySplit]) || s.cols < algo->data[kWordFewest]) return kRefused;
  if (!aligned(a, *la, algo->data[kWordAlignA]) || !aligned(b, *lb, algo->data[kWordAlignB]) || !aligned(c, *lc, algo->data[kWordAlignC])) return kRefused;
  if (has_bias && d->bias_type != lc->type) return kUnable;
  const double keep = static_cast<double>(*static_cast<const float*>(beta));
  // Descriptors may be gone when captured work is done.
  emulate::enqueue([=, desc = *d, layout_a = *la, layout_b = *lb, layout_c = *lc, id = algo->data[kWordId]] {
    const bool ta = desc.trans_a == kTransposed, tb = desc.trans_b == kTransposed;
    emulate::enter_device();
    for (uint64_t j = 0; j < s.cols; ++j) {
      for (uint64_t i = 0; i < s.rows; ++i) {
        const auto term = [&](uint64_t t) { return element(a, layout_a, ta ? t : i, ta ? i : t) * element(b, layout_b, tb ? j : t, tb ? t : j); };
        double sum = layout_a.type == kF32 ? full_sum(s.inner, term) : tensor_core_sum(s.inner, term);
        if (id == kOtherBits) sum += 1e-6;
        if (keep != 0) sum += keep * element(c, layout_c, i, j);
        if (has_bias) sum += element(desc.bias, {layout_c.type, s.rows, 1, static_cast<int64_t>(s.rows)}, i, 0);
        const auto at = static_cast<size_t>(static_cast<int64_t>(i) + static_cast<int64_t>(j) * layout_c.ld);
        if (layout_c.type == kF32) static_cast<float*>(result)[at] = static_cast<float>(sum);
        else static_cast<bf16*>(result)[at] = to_bf16(static_cast<float>(sum));
      }
    }
    emulate::leave_device();
  });
  return kSuccess;
}

template <class T>
int destroy(T* object) {
  delete object;
  return kSuccess;
}

Library stand_in() {
  Library lib;
  lib.path = "stand-in";
  lib.GetVersion = [] { return size_t{0}; };
  lib.GetStatusName = [](int status) { return status == kRefused ? "refused" : "not supported"; };
  lib.Create = [](Context** c) { return *c = new Context, static_cast<int>(kSuccess); };
  lib.Destroy = destroy<Context>;
  lib.MatrixLayoutCreate = [](MatrixLayout** m, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < static_cast<int64_t>(rows)) return kRefused;
    return *m = new MatrixLayout{type, rows, cols, ld}, static_cast<int>(kSuccess);
  };
  lib.MatrixLayoutDestroy = destroy<MatrixLayout>;
  lib.MatmulDescCreate = [](MatmulDesc** d, int compute, int scale) {
    return *d = new MatmulDesc, compute == kCompute32F && scale == kF32 ? static_cast<int>(kSuccess) : kRefused;
  };
  lib.MatmulDescDestroy = destroy<MatmulDesc>;
  lib.MatmulDescSetAttribute = set_desc;
  lib.MatmulPreferenceCreate = [](Preference** p) { return *p = new Preference, static_cast<int>(kSuccess); };
  lib.MatmulPreferenceDestroy = destroy<Preference>;
  lib.MatmulPreferenceSetAttribute = set_preference;
  lib.MatmulAlgoGetHeuristic = heuristic;
  lib.MatmulAlgoCheck = check_algo;
  lib.MatmulAlgoConfigGetAttribute = get_attribute;
  lib.Matmul = matmul;
  return lib;
}

}  // namespace

const Library& library() {
  static const Library& lib = *new Library(stand_in());
  return lib;
}

}  // namespace rlhi::ops::cuda::lt
