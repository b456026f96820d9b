#include "ops/cuda/gemm.h"

#include <algorithm>
#include <cstring>
#include <random>

namespace rlhi::ops::cuda {
namespace {

constexpr size_t kMostPlans = 8192;
constexpr int64_t kGradientBucket = 256;  // rows
constexpr int64_t kRandomRows = 61;       // of a trial's weight, before they repeat
constexpr int kMostTrials = 6;

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

// Operands of a trial, made so that two orders of a sum cannot hide behind the rounding of its result: the second half of every
// sum is the first with the other sign, and what is left is nothing but the rounding on the way.
struct TrialNumbers {
  explicit TrialNumbers(const GemmArgs& g) : a(bytes(g.a, g.a.rows)), order(static_cast<size_t>(g.b.rows)) {
    const bool along_columns = g.form == GemmForm::nt;   // where b's k lies
    const int64_t half = g.a.cols / 2, distinct = kRandomRows;
    n_rows = along_columns ? distinct : 2 * distinct;
    rows.resize(bytes(g.b, n_rows));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < g.a.rows; ++i)
      for (int64_t j = 0; j < half; ++j) put(a, g.a, i, {j, half + j}, normal(random), 1);
    for (int64_t i = 0; i < distinct; ++i) {
      for (int64_t j = 0; j < (along_columns ? half : g.b.cols); ++j) {
        const float x = normal(random);
        if (along_columns) put(rows, g.b, i, {j, half + j}, x, -1);
        else put(rows, g.b, i, {j, j}, x, 1), put(rows, g.b, distinct + i, {j, j}, -x, 1);
      }
    }
    for (int64_t i = 0; i < g.b.rows; ++i)
      order[static_cast<size_t>(i)] = static_cast<int32_t>(along_columns || i < half ? i % distinct : distinct + (i - half) % distinct);
  }
  std::vector<char> a, rows;     // a whole; the distinct rows of b
  std::vector<int32_t> order;    // of b's rows among them
  int64_t n_rows = 0;

 private:
  static size_t bytes(const Tensor& t, int64_t n) { return static_cast<size_t>(n * t.row_stride * dtype_size(t.dtype)); }
  // x at the first place, sign * x at the second.
  static void put(std::vector<char>& to, const Tensor& t, int64_t row, std::pair<int64_t, int64_t> cols, float x, float sign) {
    for (const auto& [col, value] : {std::pair{cols.first, x}, {cols.second, cols.second == cols.first ? x : sign * x}}) {
      char* at = to.data() + (row * t.row_stride + col) * dtype_size(t.dtype);
      const bf16 rounded = to_bf16(value);
      if (t.dtype == DType::f32) std::memcpy(at, &value, sizeof value);
      else std::memcpy(at, &rounded, sizeof rounded);
    }
  }
};

struct TrialMemory {
  explicit TrialMemory(size_t bytes) : data(runtime::allocate(bytes)) {}
  ~TrialMemory() {
    if (data) runtime::release(data);
  }
  TrialMemory(const TrialMemory&) = delete;
  TrialMemory& operator=(const TrialMemory&) = delete;
  void* data;
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

const lt::Algo& Gemm::algo_of_few(const WeightKey& key, const GemmArgs& g) {
  if (const auto found = algos_of_few_.find(key); found != algos_of_few_.end()) return found->second;
  const lt::Algo first = algo_of(key, g);
  int trials = 0;
  for (const lt::Algo& algo : candidates(g, key, kFewRows / 2)) {
    if (std::memcmp(&algo, &first, sizeof first) == 0) break;  // cuBLASLt knows none that it expects to be faster
    const std::vector<int64_t> rows = {1, 2, 17, kFewRows};
    if (!std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return runs(g, n, algo); })) continue;
    if (++trials > kMostTrials) break;
    if (same_bits(g, first, algo)) return algos_of_few_.emplace(key, algo).first->second;
  }
  return algos_of_few_.emplace(key, first).first->second;
}

// Where there is no memory for a trial the answer is no.
bool Gemm::same_bits(const GemmArgs& given, const lt::Algo& first, const lt::Algo& second) {
  GemmArgs g = with_rows(given, kFewRows);
  const auto bytes_of = [](const Tensor& t) { return static_cast<size_t>(t.rows * t.row_stride * dtype_size(t.dtype)); };
  for (Tensor* t : {&g.a, &g.b, &g.c}) t->row_stride = (t->cols + 15) / 16 * 16;  // aligned at least as the operands are
  const TrialNumbers numbers(g);
  const size_t c_bytes = bytes_of(g.c);
  const TrialMemory a(bytes_of(g.a)), b(bytes_of(g.b)), c(2 * c_bytes), rows(numbers.rows.size()), order(numbers.order.size() * sizeof(int32_t)),
      bias(static_cast<size_t>(g.c.cols) * sizeof(float));
  for (const TrialMemory* m : {&a, &b, &c, &rows, &order, &bias})
    if (!m->data) return false;
  if (g.bias) {  // of zeros: a larger number would hide what is left of the sum
    runtime::zero(launch_.stream, bias.data, static_cast<size_t>(g.c.cols) * sizeof(float));
    g.bias.data = bias.data;
  }
  runtime::copy_in(launch_.stream, a.data, numbers.a.data(), numbers.a.size());
  runtime::copy_in(launch_.stream, rows.data, numbers.rows.data(), numbers.rows.size());
  runtime::copy_in(launch_.stream, order.data, numbers.order.data(), numbers.order.size() * sizeof(int32_t));
  g.a.data = a.data, g.b.data = b.data, g.c.data = c.data;
  const Tensor distinct(rows.data, g.b.dtype, numbers.n_rows, g.b.cols, g.b.row_stride);
  move_rows(launch_, g.b, nullptr, distinct, static_cast<const int32_t*>(order.data), g.b.rows);

  runtime::zero(launch_.stream, c.data, 2 * c_bytes);
  multiply_by(g, first);
  g.c.data = static_cast<char*>(c.data) + c_bytes;
  multiply_by(g, second);
  std::vector<char> results(2 * c_bytes);
  runtime::copy_out(launch_.stream, results.data(), c.data, results.size());
  runtime::synchronize(launch_.stream);
  return std::memcmp(results.data(), results.data() + c_bytes, c_bytes) == 0;
}

Gemm::Plan& Gemm::plan_of(const GemmArgs& g, int64_t aligned_cols) {
  const ShapeKey key{weight_key(g, aligned_cols), g.c.rows, g.a.rows * (g.form == GemmForm::tn), g.a.row_stride, g.b.row_stride, g.c.row_stride};
  if (const auto found = plans_.find(key); found != plans_.end()) return *found->second;
  const bool few = key.weight.rows == 0 && g.a.rows <= kFewRows;
  const lt::Algo algo = few ? algo_of_few(key.weight, g) : algo_of(key.weight, g);
  if (plans_.size() >= kMostPlans) plans_.clear();
  auto plan = std::make_unique<Plan>(lt_, g);
  check(plan->descriptors.ok(), ErrorCode::internal, "cuBLASLt refused to describe a product");
  plan->algo = algo;
  return *plans_.emplace(key, std::move(plan)).first->second;
}

void Gemm::multiply(const GemmArgs& g, int64_t aligned_cols) {
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
  must(lt_.Matmul(context_, desc, &alpha, g.b.data, first, g.a.data, second, &beta, g.c.data, result, g.c.data, result, &algo, workspace_,
                  kWorkspaceBytes, launch_.stream),
       "a product");
}

Gemm::Choice Gemm::choice(const GemmArgs& g) {
  const lt::Algo algo = plan_of(g, 0).algo;
  Choice c;
  size_t written = 0;
  for (const auto& [attribute, value] : {std::pair{lt::kAlgoId, &c.id}, {lt::kAlgoTile, &c.tile}, {lt::kAlgoStages, &c.stages}, {lt::kAlgoSplitK, &c.split_k}})
    must(lt_.MatmulAlgoConfigGetAttribute(&algo, attribute, value, sizeof *value, &written), "reading an algorithm");
  return c;
}

}  // namespace rlhi::ops::cuda
