// AdamW by PyTorch's formula, and the gradient's norm.
#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;

// Vectors; cache lines; 16384 elements of a task of AdamW and of a partial sum of squares, four of which are a task.
const std::vector<int64_t> kLengths = around({4, 8, 16, 64, 16384});

class AdamWCase : public OpCase {
 public:
  AdamWCase(int64_t n, DType type) : n_(n), type_(type), start_(Matrix::random(1, n, DType::f32, 1, 0.1, 0)), grad_(Matrix::random(1, n, DType::f32, 2, 0.01, 0)), m_start_(Matrix::random(1, n, DType::f32, 3, 0.01, 0)) {
    for (int64_t i = 0; i < n; ++i) v_start_.push_back(static_cast<float>(m_start_.at(0, i) * m_start_.at(0, i) * 1.5));
  }
  void prepare(const Table&, Backend*) override {
    weight_ = floats_of(start_), grad_floats_ = floats_of(grad_), m_ = floats_of(m_start_), v_ = v_start_;
    halves_.resize(weight_.size()), remainder_.resize(weight_.size());
    for (size_t i = 0; i < weight_.size(); ++i) split_master(weight_[i], halves_[i], remainder_[i]);
  }
  void call(const Table& ops, Backend* backend) override { ops.adamw(backend, args()); }
  void check(const Table&, Backend*) override {
    const ops::AdamWArgs a = args();
    for (size_t i = 0; i < weight_.size(); ++i) {
      const double g = static_cast<double>(grad_floats_[i]) * 0.5;
      const double m = 0.9 * m_start_.at(0, static_cast<int64_t>(i)) + 0.1 * g, v = 0.95 * static_cast<double>(v_start_[i]) + 0.05 * g * g;
      const double w = start_.at(0, static_cast<int64_t>(i)) * (1 - 1e-3 * 0.1) - 1e-3 * (m / a.bias_correction1) / (std::sqrt(v / a.bias_correction2) + 1e-8);
      const float found = type_ == DType::f32 ? weight_[i] : join_master(halves_[i], remainder_[i]);
      expect_close(static_cast<double>(found), w, 3e-8 + 1e-7 * std::abs(w), "weight", 0, static_cast<int64_t>(i));
      expect_close(static_cast<double>(m_[i]), m, 1e-10 + 2e-7 * std::abs(m), "m", 0, static_cast<int64_t>(i));
      expect_close(static_cast<double>(v_[i]), v, 1e-12 + 2e-7 * v, "v", 0, static_cast<int64_t>(i));
    }
  }

 private:
  static std::vector<float> floats_of(const Matrix& m) {
    std::vector<float> all;
    for (int64_t i = 0; i < m.cols(); ++i) all.push_back(static_cast<float>(m.at(0, i)));
    return all;
  }
  ops::AdamWArgs args() {
    ops::AdamWArgs a;
    a.n = n_, a.dtype = type_;
    a.weight = type_ == DType::f32 ? static_cast<void*>(weight_.data()) : halves_.data();
    a.remainder = type_ == DType::f32 ? nullptr : remainder_.data();
    a.grad = grad_floats_.data(), a.m = m_.data(), a.v = v_.data();
    a.grad_scale = 0.5f;
    a.lr = 1e-3, a.beta1 = 0.9, a.beta2 = 0.95, a.eps = 1e-8, a.weight_decay = 0.1;
    a.bias_correction1 = 1 - std::pow(0.9, 3), a.bias_correction2 = 1 - std::pow(0.95, 3);
    return a;
  }

  int64_t n_;
  DType type_;
  Matrix start_, grad_, m_start_;
  std::vector<float> v_start_, weight_, grad_floats_, m_, v_;
  std::vector<bf16> halves_;
  std::vector<int16_t> remainder_;
};

class SumOfSquaresCase : public OpCase {
 public:
  explicit SumOfSquaresCase(int64_t n) : x_(static_cast<size_t>(n)) {
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = std::sin(static_cast<float>(i)) * 1e10f;
  }
  void call(const Table& ops, Backend* backend) override { sum_ = ops.sum_of_squares(backend, x_.data(), static_cast<int64_t>(x_.size())); }
  void check(const Table&, Backend*) override {
    long double expected = 0;
    for (const float x : x_) expected += static_cast<long double>(x) * static_cast<long double>(x);
    expect_close(sum_, static_cast<double>(expected), 1e-13 * static_cast<double>(expected), "sum");
  }

 private:
  std::vector<float> x_;
  double sum_ = 0;
};

constexpr int64_t kLayer = 2 * 1536 * 576;  // SmolLM2-135M's gate_up

}  // namespace

std::vector<OpCaseMaker> OpCases::adamw_edges() {
  std::vector<OpCaseMaker> all;
  for (const int64_t n : kLengths) {
    for (const DType type : kTypes) all.push_back(op_case<AdamWCase>(concat(n, " ", type_name(type)), n, type));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::adamw_model() {
  return {op_case<AdamWCase>(concat(kLayer, " f32"), kLayer, DType::f32), op_case<AdamWCase>(concat(kLayer, " bf16"), kLayer, DType::bf16)};
}
std::vector<OpCaseMaker> OpCases::sum_of_squares_edges() {
  std::vector<OpCaseMaker> all;
  std::vector<int64_t> lengths = kLengths;
  for (const int64_t n : around({65536})) lengths.push_back(n);
  for (const int64_t n : lengths) all.push_back(op_case<SumOfSquaresCase>(concat(n), n));
  return all;
}
std::vector<OpCaseMaker> OpCases::sum_of_squares_model() { return {op_case<SumOfSquaresCase>(concat(kLayer, " f32"), kLayer)}; }

}  // namespace rlhi::test
