// AdamW by PyTorch's formula, the gradient's norm and its clipping.
#include <limits>

#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;

// Vectors; cache lines; 16384 elements of a task of AdamW and of a partial sum of squares, four of which are a task.
const std::vector<int64_t> kLengths = around({4, 8, 16, 64, 16384});

float half_scale = 0.5f;  // a device's table for the host's tensors writes back what it took
constexpr int64_t kPiece = 4096;  // of moments in host memory: 16384 are a piece more than there are slots

class AdamWCase : public OpCase {
 public:
  AdamWCase(int64_t n, DType type, DType gradient, DType moments, bool moments_on_host = false)
      : n_(n), type_(type), moments_on_host_(moments_on_host), weight_start_(row(1, 0.1)), grad_(Matrix::random(1, n, gradient, 2, 0.01, 0)), m_start_(Matrix::random(1, n, moments, 3, 0.01, 0)),
        v_start_(1, n, moments, 0) {
    for (int64_t i = 0; i < n; ++i) v_start_.set(0, i, m_start_.at(0, i) * m_start_.at(0, i) * 1.5);
  }
  void prepare(const Table&, Backend*) override {
    weight_ = weight_start_, m_ = m_start_, v_ = v_start_;
    halves_.resize(static_cast<size_t>(n_)), remainder_.resize(halves_.size());
    for (size_t i = 0; i < halves_.size(); ++i)
      split_master(static_cast<float>(weight_.at(0, static_cast<int64_t>(i))), halves_[i], remainder_[i]);
  }
  void call(const Table& ops, Backend* backend) override { ops.adamw(backend, args()); }
  void check(const Table&, Backend*) override {
    const ops::AdamWArgs a = args();
    const double loose = m_.dtype() == DType::f32 ? 2e-7 : 0x1p-7;    // bf16 takes the neighbour above or below
    for (int64_t i = 0; i < n_; ++i) {
      const double g = grad_.at(0, i) * 0.5, m = 0.9 * m_start_.at(0, i) + 0.1 * g, v = 0.95 * v_start_.at(0, i) + 0.05 * g * g;
      const double w =
          weight_start_.at(0, i) * (1 - 1e-3 * 0.1) - 1e-3 * (m / a.bias_correction1) / (std::sqrt(v / a.bias_correction2) + 1e-8);
      const auto at = static_cast<size_t>(i);
      const double found = type_ == DType::f32 ? weight_.at(0, i) : static_cast<double>(join_master(halves_[at], remainder_[at]));
      expect_close(found, w, 3e-8 + 1e-7 * std::abs(w), "weight", 0, i);
      expect_close(m_.at(0, i), m, 1e-10 + loose * std::abs(m), "m", 0, i);
      expect_close(v_.at(0, i), v, 1e-12 + loose * v, "v", 0, i);
    }
  }

 private:
  Matrix row(uint32_t seed, double size) const { return Matrix::random(1, n_, DType::f32, seed, size, 0); }
  ops::AdamWArgs args() {
    ops::AdamWArgs a;
    a.n = n_, a.dtype = type_, a.moments = m_.dtype() == DType::f32 ? ops::Moments::f32 : ops::Moments::bf16;
    a.weight = type_ == DType::f32 ? weight_.tensor().data : halves_.data();
    a.remainder = type_ == DType::f32 ? nullptr : remainder_.data();
    a.grad = grad_.tensor().data, a.grad_dtype = grad_.dtype(), a.m = m_.tensor().data, a.v = v_.tensor().data;
    a.moments_on_host = moments_on_host_, a.moment_piece = kPiece;
    a.grad_scale = &half_scale;
    a.lr = 1e-3, a.beta1 = 0.9, a.beta2 = 0.95, a.eps = 1e-8, a.weight_decay = 0.1;
    a.bias_correction1 = 1 - std::pow(0.9, 3), a.bias_correction2 = 1 - std::pow(0.95, 3);
    return a;
  }

  int64_t n_;
  DType type_;
  bool moments_on_host_;
  Matrix weight_start_, grad_, m_start_, v_start_;
  Matrix weight_ = weight_start_, m_ = m_start_, v_ = v_start_;
  std::vector<bf16> halves_;
  std::vector<int16_t> remainder_;
};

class SumOfSquaresCase : public OpCase {
 public:
  SumOfSquaresCase(int64_t n, DType type) : x_(Matrix::random(1, n, type, 1, 1e10, 0)) {}
  void call(const Table& ops, Backend* backend) override { ops.sum_of_squares(backend, x_.tensor(), &sum_); }
  void check(const Table&, Backend*) override {
    long double expected = 0;
    for (int64_t i = 0; i < x_.cols(); ++i) expected += static_cast<long double>(x_.at(0, i)) * static_cast<long double>(x_.at(0, i));
    expect_close(sum_, static_cast<double>(expected), 1e-13 * static_cast<double>(expected), "sum");
  }

 private:
  Matrix x_;
  double sum_ = 0;
};

class ClipFactorCase : public OpCase {
 public:
  ClipFactorCase(std::vector<double> squares, double max_norm, float before) : squares_(std::move(squares)), max_norm_(max_norm), before_(before) {}
  void prepare(const Table&, Backend*) override { factor_ = before_; }
  void call(const Table& ops, Backend* backend) override {
    ops.clip_factor(backend, squares_.data(), static_cast<int64_t>(squares_.size()), max_norm_, &factor_);
  }
  void check(const Table&, Backend*) override {
    double sum = 0;
    for (const double s : squares_) sum += s;
    if (!std::isfinite(sum) || std::isnan(before_)) {
      EXPECT(std::isnan(factor_));
      return;
    }
    const double expected = max_norm_ > 0 ? std::min(1.0, max_norm_ / (std::sqrt(sum) + 1e-6)) : 1.0;
    EXPECT_EQ(factor_, static_cast<float>(expected));
  }

 private:
  std::vector<double> squares_;
  double max_norm_;
  float before_, factor_ = 0;
};

constexpr int64_t kLayer = 2 * 1536 * 576;  // SmolLM2-135M's gate_up

}  // namespace

std::vector<OpCaseMaker> OpCases::adamw_edges() {
  std::vector<OpCaseMaker> all;
  for (const int64_t n : kLengths) {
    for (const DType type : kTypes) {
      for (const DType gradient : kTypes) {
        for (const DType moments : kTypes) {
          all.push_back(op_case<AdamWCase>(concat(n, " ", type_name(type), ", gradient ", type_name(gradient), ", moments ", type_name(moments)), n, type,
                                           gradient, moments));
        }
      }
      all.push_back(op_case<AdamWCase>(concat(n, " ", type_name(type), ", moments ", type_name(type), " in host memory"), n, type, type, type, true));
    }
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::adamw_model() {
  std::vector<OpCaseMaker> all;
  for (const DType type : kTypes) all.push_back(op_case<AdamWCase>(concat(kLayer, " ", type_name(type)), kLayer, type, type, type));
  return all;
}
std::vector<OpCaseMaker> OpCases::sum_of_squares_edges() {
  std::vector<OpCaseMaker> all;
  std::vector<int64_t> lengths = kLengths;
  for (const int64_t n : around({65536})) lengths.push_back(n);
  for (const int64_t n : lengths) {
    for (const DType type : kTypes) all.push_back(op_case<SumOfSquaresCase>(concat(n, " ", type_name(type)), n, type));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::sum_of_squares_model() { return {op_case<SumOfSquaresCase>(concat(kLayer, " f32"), kLayer, DType::f32)}; }

std::vector<OpCaseMaker> OpCases::clip_factor_edges() {
  constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<OpCaseMaker> all;
  for (const std::vector<double>& squares : std::vector<std::vector<double>>{{}, {0}, {0.25, 0.5}, {9, 16, 1e-30}, {inf, 1}, {1, nan}}) {
    for (const double max_norm : {0.0, 1.0, 4.5}) {
      for (const float before : {1.0f, 0.25f, std::numeric_limits<float>::quiet_NaN()}) {
        all.push_back(op_case<ClipFactorCase>(concat(squares.size(), " sums, first ", squares.empty() ? 0.0 : squares[0], ", norm of ", max_norm, ", before ", before),
                                              squares, max_norm, before));
      }
    }
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::clip_factor_model() { return {op_case<ClipFactorCase>("2 sums", std::vector<double>{3, 4}, 1.0, 1.0f)}; }

}  // namespace rlhi::test
