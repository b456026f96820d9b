#include "ops/cuda/gemm.h"

#include <algorithm>
#include <array>
#include <functional>

#include "ops/cuda/gemm_trial.h"
#include "ops/cuda/recorder.h"

namespace rlhi::ops::cuda {
namespace {

constexpr size_t kMostPlans = 8192;
constexpr int64_t kGradientBucket = 256;  // rows
constexpr int kMostTrials = 8;
constexpr std::array<int64_t, 3> kFewClasses = {32, 64, kFewRows};  // products of up to so many rows are chosen for alike

lt::DataType data_type(DType t) { return t == DType::f32 ? lt::kF32 : lt::kBf16; }

// The largest power of two up to 16 that divides the address and the row's length in bytes.
int alignment_of(const void* data, int64_t row_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(row_bytes) | 16u;
  return static_cast<int>(bits & (~bits + 1));
}
int alignment_of(const Tensor& t) { return alignment_of(t.data, t.row_stride * dtype_size(t.dtype)); }

// A product as cuBLASLt sees it. Row-major matrices are column-major ones transposed, so c^T = op(b)^T op(a)^T is asked for:
// cuBLASLt's first operand is our b, its second our a, and its "columns" are our rows.
class Descriptors {
 public:
  Descriptors(const lt::Library& lib, const GemmArgs& g) : lt_(lib) {
    ok_ = lt_.MatmulDescCreate(&desc, lt::kCompute32F, lt::kF32) == lt::kSuccess;
    const int32_t trans_first = g.form == GemmForm::nt ? lt::kTransposed : lt::kNone;
    const int32_t trans_second = g.form == GemmForm::tn ? lt::kTransposed : lt::kNone;
    const uint32_t epilogue = g.bias ? lt::kEpilogueBias : lt::kEpilogueDefault;
    set(lt::kTransA, trans_first);
    set(lt::kTransB, trans_second);
    set(lt::kEpilogue, epilogue);
    if (g.bias) {
      const int32_t type = data_type(g.bias.dtype);
      set(lt::kBiasType, type);
      set_bias(g.bias.data);
    }
    create(first, g.b);
    create(second, g.a);
    create(result, g.c);
  }
  ~Descriptors() {
    for (lt::MatrixLayout* layout : {first, second, result})
      if (layout) lt_.MatrixLayoutDestroy(layout);
    if (desc) lt_.MatmulDescDestroy(desc);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  void set_bias(const void* data) { set(lt::kBiasPointer, data); }
  bool ok() const { return ok_; }

  lt::MatmulDesc* desc = nullptr;
  lt::MatrixLayout *first = nullptr, *second = nullptr, *result = nullptr;

 private:
  template <class T>
  void set(lt::DescAttribute attribute, const T& value) {
    ok_ = ok_ && lt_.MatmulDescSetAttribute(desc, attribute, &value, sizeof value) == lt::kSuccess;
  }
  void create(lt::MatrixLayout*& layout, const Tensor& t) {
    ok_ = ok_ && lt_.MatrixLayoutCreate(&layout, data_type(t.dtype), static_cast<uint64_t>(t.cols), static_cast<uint64_t>(t.rows), t.row_stride) ==
                     lt::kSuccess;
  }

  const lt::Library& lt_;
  bool ok_ = true;
};

// The same product with another number of rows of the batch.
GemmArgs with_rows(GemmArgs g, int64_t rows) {
  g.a.rows = rows;
  (g.form == GemmForm::tn ? g.b.rows : g.c.rows) = rows;
  return g;
}

}  // namespace

struct Gemm::Plan {
  Plan(const lt::Library& lib, const GemmArgs& g) : descriptors(lib, g) {}
  Descriptors descriptors;
  lt::Algo algo;
};

Gemm::Gemm(const Launch& launch) : lt_(lt::library()), launch_(launch) {
  must(lt_.Create(&context_), "starting cuBLASLt");
  workspace_ = runtime::allocate(kWorkspaceBytes);
  check(workspace_ != nullptr, ErrorCode::out_of_memory, "no ", kWorkspaceBytes, " bytes of GPU memory for cuBLASLt's workspace");
}

Gemm::~Gemm() {
  plans_.clear();
  if (workspace_) runtime::release(workspace_);
  lt_.Destroy(context_);
}

void Gemm::must(int status, const char* what) const {
  check(status == lt::kSuccess, ErrorCode::internal, "cuBLASLt: ", what, ": ", lt_.GetStatusName(status));
}

Gemm::WeightKey Gemm::weight_key(const GemmArgs& g, int64_t aligned_cols) const {
  WeightKey key;
  key.form = static_cast<int>(g.form), key.dtype = static_cast<int>(g.a.dtype), key.c_dtype = static_cast<int>(g.c.dtype);
  key.n = g.c.cols;
  const bool gradient = g.form == GemmForm::tn;
  key.k_or_m = gradient ? g.c.rows : g.a.cols;
  key.rows = gradient ? (g.a.rows + kGradientBucket - 1) / kGradientBucket * kGradientBucket : 0;
  key.align_a = alignment_of(g.a), key.align_b = alignment_of(g.b);
  key.align_c = alignment_of(g.c);
  if (aligned_cols > 0) key.align_c = std::min(key.align_c, alignment_of(nullptr, aligned_cols * dtype_size(g.c.dtype)));
  key.bias = static_cast<bool>(g.bias), key.accumulate = g.accumulate;
  return key;
}

bool Gemm::runs(const GemmArgs& g, int64_t rows, const lt::Algo& algo) {
  const Descriptors d(lt_, with_rows(g, rows));
  lt::HeuristicResult result;
  return d.ok() && lt_.MatmulAlgoCheck(context_, d.desc, d.first, d.second, d.result, d.result, &algo, &result) == lt::kSuccess &&
         result.workspace_bytes <= kWorkspaceBytes;
}

// cuBLASLt's own order, for a product whose rows are the batch without those that split the sum.
std::vector<lt::Algo> Gemm::candidates(const GemmArgs& g, const WeightKey& key, int64_t batch_rows) {
  const Descriptors d(lt_, with_rows(g, batch_rows));
  check(d.ok(), ErrorCode::internal, "cuBLASLt refused to describe a product");
  lt::Preference* preference = nullptr;
  must(lt_.MatmulPreferenceCreate(&preference), "creating a preference");
  const auto prefer = [&](lt::PreferenceAttribute attribute, const auto& value) {
    must(lt_.MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "setting a preference");
  };
  prefer(lt::kMaxWorkspace, static_cast<uint64_t>(kWorkspaceBytes));
  const bool may_split = key.rows > 0;
  prefer(lt::kReductionMask, may_split ? uint32_t{lt::kReduceInOrder} : uint32_t{0});
  prefer(lt::kMinAlignmentA, static_cast<uint32_t>(key.align_b));  // its first operand is our b
  prefer(lt::kMinAlignmentB, static_cast<uint32_t>(key.align_a));
  prefer(lt::kMinAlignmentC, static_cast<uint32_t>(key.align_c));
  prefer(lt::kMinAlignmentD, static_cast<uint32_t>(key.align_c));
  std::vector<lt::HeuristicResult> results(32);
  int found = 0;
  const int status = lt_.MatmulAlgoGetHeuristic(context_, d.desc, d.first, d.second, d.result, d.result, preference,
                                                static_cast<int>(results.size()), results.data(), &found);
  lt_.MatmulPreferenceDestroy(preference);
  std::vector<lt::Algo> algos;
  for (int i = 0; status == lt::kSuccess && i < found; ++i) {
    const lt::HeuristicResult& r = results[static_cast<size_t>(i)];
    int32_t split_k = 0;
    size_t written = 0;
    if (r.state != lt::kSuccess || lt_.MatmulAlgoConfigGetAttribute(&r.algo, lt::kAlgoSplitK, &split_k, sizeof split_k, &written) != lt::kSuccess)
      continue;
    if (split_k <= 1 || may_split) algos.push_back(r.algo);
  }
  return algos;
}

const lt::Algo& Gemm::algo_of(const WeightKey& key, const GemmArgs& g) {
  if (const auto found = algos_.find(key); found != algos_.end()) return found->second;
  const std::vector<int64_t> rows = key.rows > 0 ? std::vector<int64_t>{g.a.rows} : std::vector<int64_t>{1, 7, 64, 1000, 8192};
  for (const lt::Algo& algo : candidates(g, key, key.rows > 0 ? key.rows : kTypicalRows)) {
    const bool runs_all = std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return runs(g, n, algo); });
    if (runs_all) return algos_.emplace(key, algo).first->second;
  }
  static const char* const forms[] = {"nt", "nn", "tn"};
  fail(ErrorCode::unsupported, "cuBLASLt ", lt_.GetVersion(), " has no algorithm for the product ", forms[key.form], " of ",
       dtype_name(g.a.dtype), " into ", dtype_name(g.c.dtype), ", n ", g.c.cols, ", k ", g.form == GemmForm::tn ? g.a.rows : g.a.cols,
       ", aligned to ", key.align_a, ", ", key.align_b, " and ", key.align_c, " bytes", g.bias ? ", with a bias" : "");
}

// Bits decide what may be taken, time decides which is: a choice by the clock changes no result.
const Gemm::Few& Gemm::few_of(const WeightKey& key, const GemmArgs& g) {
  auto found = few_.find(key);
  if (found == few_.end()) {
    if (launch_.recorder) require_no_recording(*launch_.recorder);  // a trial is waited for
    found = few_.emplace(key, try_few(key, g)).first;
  }
  return found->second[g.a.rows <= kFewClasses[0] ? 0 : g.a.rows <= kFewClasses[1] ? 1 : 2];
}

std::array<Gemm::Few, 3> Gemm::try_few(const WeightKey& key, const GemmArgs& g) {
  const lt::Algo first = algo_of(key, g);
  std::array<Few, 3> best = {Few{first}, Few{first}, Few{first}};
  GemmTrial trial(launch_, with_rows(g, kFewRows));
  for (size_t i = 0; i < best.size() && trial.ready(); ++i) {
    const GemmArgs args = with_rows(trial.args(), kFewClasses[i]);
    const auto by = [&](const lt::Algo& algo) { return [&] { multiply_by(args, algo); }; };
    trial.begin(args, by(first));
    const auto consider = [&](const std::function<void()>& multiply, const Few& what) {
      if (trial.is_better(multiply)) best[i] = what;
    };
    const bool takes = takes_few_rows(args);
    int trials = 0;
    for (const lt::Algo& algo : takes && fills_by_few_rows(launch_, args) ? std::vector<lt::Algo>() : candidates(g, key, kFewClasses[i])) {
      const std::vector<int64_t> rows = {1, 2, 17, kFewClasses[i]};
      if (!std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return runs(g, n, algo); })) continue;
      if (++trials > kMostTrials) break;
      consider(by(algo), {algo});
    }
    if (takes) consider([&] { few_rows_product(launch_, args); }, {first, true});
  }
  return best;
}

bool Gemm::is_own(const GemmArgs& g, int64_t aligned_cols) { return takes_few_rows(g) && few_of(weight_key(g, aligned_cols), g).own; }

Gemm::Plan& Gemm::plan_of(const GemmArgs& g, int64_t aligned_cols) {
  const ShapeKey key{weight_key(g, aligned_cols), g.c.rows, g.a.rows * (g.form == GemmForm::tn), g.a.row_stride, g.b.row_stride, g.c.row_stride};
  if (const auto found = plans_.find(key); found != plans_.end()) return *found->second;
  const bool few = key.weight.rows == 0 && g.a.rows <= kFewRows;
  const lt::Algo algo = few ? few_of(key.weight, g).algo : algo_of(key.weight, g);
  if (plans_.size() >= kMostPlans) plans_.clear();
  auto plan = std::make_unique<Plan>(lt_, g);
  check(plan->descriptors.ok(), ErrorCode::internal, "cuBLASLt refused to describe a product");
  plan->algo = algo;
  return *plans_.emplace(key, std::move(plan)).first->second;
}

void Gemm::multiply(const GemmArgs& g, int64_t aligned_cols) {
  if (is_own(g, aligned_cols)) return few_rows_product(launch_, g);
  Plan& plan = plan_of(g, aligned_cols);
  Descriptors& d = plan.descriptors;
  if (g.bias) d.set_bias(g.bias.data);
  run(d.desc, d.first, d.second, d.result, g, plan.algo);
}

void Gemm::multiply_by(const GemmArgs& g, const lt::Algo& algo) {
  const Descriptors d(lt_, g);
  check(d.ok(), ErrorCode::internal, "cuBLASLt refused to describe a product");
  run(d.desc, d.first, d.second, d.result, g, algo);
}

void Gemm::run(lt::MatmulDesc* desc, lt::MatrixLayout* first, lt::MatrixLayout* second, lt::MatrixLayout* result, const GemmArgs& g,
               const lt::Algo& algo) {
  const float alpha = 1, beta = g.accumulate ? 1 : 0;
  if (launch_.recorder && !launch_.recorder->takes(g, algo)) return;
  must(lt_.Matmul(context_, desc, &alpha, g.b.data, first, g.a.data, second, &beta, g.c.data, result, g.c.data, result, &algo, workspace_,
                  kWorkspaceBytes, launch_.stream),
       "a product");
}

}  // namespace rlhi::ops::cuda
