// One table of tests for the operations of ops.h: values at every block edge against loops in double, gradients against finite
// differences, and time.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "test/op_table/pairwise.h"
#include "test/op_table/references.h"
#include "test/ops_support.h"

namespace rlhi::test {

constexpr DType kTypes[] = {DType::f32, DType::bf16};  // as choices of a Combination: 0 and 1
inline const char* type_name(DType t) { return t == DType::f32 ? "f32" : "bf16"; }

// One call of one operation. It is made once and run on backend after backend.
class OpCase {
 public:
  virtual ~OpCase() = default;
  // Sets the outputs to what they are before a call, and makes what the call needs on this backend beforehand (packed weights).
  virtual void prepare(const ops::Table&, ops::Backend*) {}
  // The operation, once. Nothing else, so that it can be timed; on the table of costs (ops/operation_cost.h) too.
  virtual void call(const ops::Table& ops, ops::Backend* backend) = 0;
  // Throws where an output of the last call is not the reference's; may make further calls (in place, without optional outputs).
  virtual void check(const ops::Table& ops, ops::Backend* backend) = 0;
};

struct OpCaseMaker {
  std::string what;                                   // shapes and types
  std::function<std::unique_ptr<OpCase>()> make;
};
template <class Case, class... Args>
OpCaseMaker op_case(const std::string& what, const Args&... args) {
  return {what, [args...] { return std::make_unique<Case>(args...); }};
}

struct OpEntry {
  const char* operation;
  std::vector<OpCaseMaker> (*edges)();                // every block edge, pairwise
  std::vector<OpCaseMaker> (*model)();                // SmolLM2-135M's shapes, 1024 rows: what is timed
  void (*gradient)() = nullptr;                       // backward operations: against finite differences of the reference's forward
};
const std::vector<OpEntry>& op_table();

// --ops perf: prints time, bandwidth and arithmetic of every operation whose name contains `filter`, beside this machine's own.
void print_op_speeds(const std::vector<std::string>& filters);

// The values of `found` against `expected`, each within tolerance(i, j).
template <class Tolerance>
void expect_values(const char* what, const Matrix& found, const Array& expected, const Tolerance& tolerance) {
  for (int64_t i = 0; i < found.rows(); ++i) {
    for (int64_t j = 0; j < found.cols(); ++j) expect_close(found.at(i, j), expected.at(i, j), tolerance(i, j), what, i, j);
  }
  found.expect_gaps_untouched();
}

// A matrix whose values an f32 holds, as Array has them.
inline Matrix to_matrix(const Array& a) {
  Matrix m(a.rows, a.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) m.set(i, j, a.at(i, j));
  }
  return m;
}
void expect_gradient(const char* what, const Matrix& found, const Array& slopes, double tolerance);

// The files of cases.
struct OpCases {
  static std::vector<OpCaseMaker> memory_edges(), memory_model();
  static std::vector<OpCaseMaker> copy_edges(), copy_model(), gather_edges(), gather_model(), scatter_edges(), scatter_model(),
      embedding_edges(), embedding_model();
  static std::vector<OpCaseMaker> add_edges(), add_model(), scatter_add_edges(), scatter_add_model(), column_sum_edges(),
      column_sum_model();
  static void scatter_add_gradient(), column_sum_gradient();
  static std::vector<OpCaseMaker> pack_edges(), pack_model(), gemm_edges(), gemm_model();
  static void gemm_gradient();
  static std::vector<OpCaseMaker> rms_norm_edges(), rms_norm_model(), rms_norm_backward_edges(), rms_norm_backward_model();
  static void rms_norm_gradient();
  static std::vector<OpCaseMaker> rope_edges(), rope_model(), swiglu_edges(), swiglu_model(), swiglu_backward_edges(),
      swiglu_backward_model();
  static void rope_gradient(), swiglu_gradient();
  static std::vector<OpCaseMaker> attention_edges(), attention_model(), attention_backward_edges(), attention_backward_model();
  static void attention_gradient();
  static std::vector<OpCaseMaker> logprob_edges(), logprob_model(), logprob_backward_edges(), logprob_backward_model();
  static void logprob_gradient();
  static std::vector<OpCaseMaker> choose_edges(), choose_model();
  static std::vector<OpCaseMaker> adamw_edges(), adamw_model(), sum_of_squares_edges(), sum_of_squares_model(),
      clip_factor_edges(), clip_factor_model();
  static std::vector<OpCaseMaker> loss_edges(), loss_model();
  static void loss_gradient();
};

}  // namespace rlhi::test
