// The matrix product by cuBLASLt.
//
// Batch invariance. A row of c = a b^T (and of a b) must not change with the number of rows beside it. cuBLASLt picks another
// kernel for another number of rows, so the choice is made once for a weight: from its shape, types and alignment, at
// kTypicalRows rows, among the algorithms that do not split the sum over k (no split-K, no reduction scheme) and that run for
// any number of rows; from then on that algorithm, and no other, computes every product with that weight. Within it an element
// of c is one thread's sum over k in one order, whatever tile it lies in. bench/check-cuda.sh (ops, gemm) holds it to that.
// Few rows (decoding) leave most of a GPU idle in the tiles of many. Products of at most kFewRows rows take whatever is fastest of what
// gives the very bits of the first in a trial of the weight's whole shape (gemm_trial.h): the backend's own kernel (few_rows_product),
// or another algorithm where that does not fit or has too little work for the whole GPU.
// A weight's gradient (a^T b) sums over the rows; its algorithm is chosen once for each bucket of row counts, so that the same
// step gives the same bits, and may split the sum where a second kernel adds the parts in order: a small weight has too few
// tiles to fill a GPU otherwise.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <vector>

#include "ops/cuda/cublaslt.h"
#include "ops/cuda/launch.h"

namespace rlhi::ops::cuda {

class Gemm {
 public:
  explicit Gemm(const Launch& launch);  // throws unsupported where cuBLASLt is missing
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // c = or += op(a) op(b) (+ bias). a and b of one type; bias, if any, contiguous and of c's type; sizes of 1 and above; shapes
  // checked. aligned_cols: c is a column range of a matrix of so many columns, in its place or in a buffer of its own; the
  // algorithm is that of the place, so that the bits are the same.
  void multiply(const GemmArgs& args, int64_t aligned_cols = 0);
  // Whether that is few_rows_product.
  bool is_own(const GemmArgs& args, int64_t aligned_cols = 0);

  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  static constexpr int64_t kTypicalRows = 4096;

 private:
  // All that may decide the algorithm. rows: 0 for a product whose rows are the batch, else the bucket of a gradient's.
  struct WeightKey {
    int form, dtype, c_dtype;
    int64_t n, k_or_m, rows;
    int align_a, align_b, align_c;
    bool bias, accumulate;
    auto operator<=>(const WeightKey&) const = default;
  };
  struct ShapeKey {
    WeightKey weight;
    int64_t m, k, lda, ldb, ldc;
    auto operator<=>(const ShapeKey&) const = default;
  };
  // How a weight is multiplied with few rows.
  struct Few {
    lt::Algo algo;
    bool own = false;                                // few_rows_product instead
  };
  struct Plan;
  WeightKey weight_key(const GemmArgs& args, int64_t aligned_cols) const;
  Plan& plan_of(const GemmArgs& args, int64_t aligned_cols);
  const lt::Algo& algo_of(const WeightKey& key, const GemmArgs& args);
  const Few& few_of(const WeightKey& key, const GemmArgs& args);
  std::array<Few, 3> try_few(const WeightKey& key, const GemmArgs& args);
  void multiply_by(const GemmArgs& args, const lt::Algo& algo);
  void run(lt::MatmulDesc* desc, lt::MatrixLayout* first, lt::MatrixLayout* second, lt::MatrixLayout* result, const GemmArgs& args,
           const lt::Algo& algo);
  std::vector<lt::Algo> candidates(const GemmArgs& args, const WeightKey& key, int64_t rows);
  bool runs(const GemmArgs& args, int64_t rows, const lt::Algo& algo);
  void must(int status, const char* what) const;

  const lt::Library& lt_;
  Launch launch_;
  lt::Context* context_ = nullptr;
  void* workspace_ = nullptr;
  std::map<WeightKey, lt::Algo> algos_;
  std::map<WeightKey, std::array<Few, 3>> few_;       // by the number of rows
  std::map<ShapeKey, std::unique_ptr<Plan>> plans_;  // descriptors, kept while there are few
};

}  // namespace rlhi::ops::cuda
