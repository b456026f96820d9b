// Normalisation, rotation and the gated activation.
#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

// Vectors of 4, 8 and 16 floats, and the columns that a weight's gradient is cut by.
const std::vector<int64_t> kWidths = around({4, 8, 16, 64});
double elements(const Combination& c) { return static_cast<double>(c[0] * c[1]); }

// ---- rms_norm --------------------------------------------------------------------------------------------------------
struct NormShape {
  int64_t rows, n;                     // n: columns of a group
  int groups;
  DType x, y, weight;
};
std::string describe(const NormShape& s) {
  return concat(s.rows, " x ", s.groups == 1 ? "" : concat(s.groups, " x "), s.n, " ", type_name(s.x), " to ", type_name(s.y),
                ", weight ", type_name(s.weight));
}
constexpr double kEps = 1e-5;

class NormCase : public OpCase {
 public:
  explicit NormCase(const NormShape& s)
      : s_(s), x_(Matrix::random(s.rows, s.n * s.groups, s.x, 1)), weight_(Matrix::random(1, s.n, s.weight, 2)),
        y_(s.rows, s.n * s.groups, s.y), kept_(s.rows, s.n * s.groups, s.y), rstd_(s.rows, s.groups) {}
  void call(const Table& ops, Backend* backend) override {
    ops.rms_norm(backend, y_.tensor(), x_.tensor(), weight_.tensor(), static_cast<float>(kEps), s_.groups, rstd_.tensor(),
                 kept_.tensor());
  }
  void check(const Table& ops, Backend* backend) override {
    if (reference_.y.rows == 0) reference_ = reference::rms_norm(Array(x_), Array(weight_), kEps, s_.groups);
    const auto near = [](double units, double e) { return units * (1 + std::abs(e)); };
    expect_values("y", y_, reference_.y, [&](int64_t i, int64_t j) { return near(s_.y == F ? 4e-6 : 8e-3, reference_.y.at(i, j)); });
    expect_values("rstd", rstd_, reference_.rstd, [&](int64_t i, int64_t j) { return 2e-6 * reference_.rstd.at(i, j); });
    Matrix copied(x_.rows(), x_.cols(), s_.y);
    ops.copy(backend, copied.tensor(), x_.tensor());
    for (int64_t i = 0; i < x_.rows(); ++i) EXPECT(kept_.same_row(i, copied, i));
    kept_.expect_gaps_untouched();
    if (s_.x != s_.y) return;
    Matrix in_place = x_;
    ops.rms_norm(backend, in_place.tensor(), in_place.tensor(), weight_.tensor(), static_cast<float>(kEps), s_.groups, Tensor(),
                 Tensor());
    EXPECT(in_place == y_);
  }

 private:
  NormShape s_;
  Matrix x_, weight_, y_, kept_, rstd_;
  reference::Norm reference_;
};

class NormBackwardCase : public OpCase {
 public:
  explicit NormBackwardCase(const NormShape& s)
      : s_(s), x_(Matrix::random(s.rows, s.n * s.groups, s.x, 1)), weight_(Matrix::random(1, s.n, s.weight, 2)),
        dy_(Matrix::random(s.rows, s.n * s.groups, s.y, 3)), before_(Matrix::random(s.rows, s.n * s.groups, F, 4)),
        dweight_before_(Matrix::random(1, s.n, F, 5)), dx_(before_), dweight_(dweight_before_), rstd_(s.rows, s.groups),
        norm_(reference::rms_norm(Array(x_), Array(weight_), kEps, s.groups)) {
    for (int64_t i = 0; i < s.rows; ++i) {
      for (int g = 0; g < s.groups; ++g) rstd_.set(i, g, norm_.rstd.at(i, g));
    }
  }
  void prepare(const Table&, Backend*) override { dx_ = before_, dweight_ = dweight_before_; }
  void call(const Table& ops, Backend* backend) override { run(ops, backend, dx_, dweight_.tensor(), dy_, true); }
  void check(const Table& ops, Backend* backend) override {
    if (d_.dx.rows == 0) d_ = reference::rms_norm_backward(Array(x_), Array(weight_), Array(dy_), kEps, s_.groups);
    const auto size = [&](int64_t i, int64_t j) { return 10 * norm_.rstd.at(i, j / s_.n) + std::abs(d_.dx.at(i, j)); };
    Array sum(before_), dweight = d_.dweight;
    for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += d_.dx.values[i];
    for (int64_t j = 0; j < s_.n; ++j) dweight.at(0, j) += dweight_before_.at(0, j);
    expect_values("dx added", dx_, sum, [&](int64_t i, int64_t j) { return 4e-6 * (1 + size(i, j)); });
    expect_values("dweight", dweight_, dweight, [&](int64_t, int64_t j) { return 2e-6 * (1 + d_.dweight_sizes.at(0, j)); });

    Matrix written(s_.rows, dy_.cols(), s_.y), alone = written, over = dy_, again = dweight_before_;
    run(ops, backend, written, again.tensor(), dy_, false);
    EXPECT(again == dweight_);
    run(ops, backend, alone, Tensor(), dy_, false);
    EXPECT(alone == written);
    again = dweight_before_;
    run(ops, backend, over, again.tensor(), over, false);      // dx is dy
    EXPECT(over == written && again == dweight_);
    expect_values("dx", written, d_.dx, [&](int64_t i, int64_t j) { return (s_.y == F ? 4e-6 : 8e-3) * size(i, j); });
  }

 private:
  void run(const Table& ops, Backend* backend, Matrix& dx, Tensor dweight, Matrix& dy, bool accumulate) {
    ops.rms_norm_backward(backend, dx.tensor(), dweight, dy.tensor(), x_.tensor(), weight_.tensor(), rstd_.tensor(), s_.groups,
                          accumulate);
  }
  NormShape s_;
  Matrix x_, weight_, dy_, before_, dweight_before_, dx_, dweight_, rstd_;
  reference::Norm norm_;
  reference::NormGradients d_;
};

template <class Case>
std::vector<OpCaseMaker> norm_cases() {
  std::vector<OpCaseMaker> all;
  std::vector<int64_t> widths = kWidths;
  widths.push_back(577);
  for (const Combination& c :
       pairwise({around({64}), widths, {1, 3}, {0, 1}, {0, 1}, {0, 1}}, elements, 70'000)) {  // 64 rows of a partial dweight
    const NormShape s{c[0], c[1], static_cast<int>(c[2]), kTypes[c[3]], kTypes[c[4]], kTypes[c[5]]};
    all.push_back(op_case<Case>(describe(s), s));
  }
  return all;
}
template <class Case>
std::vector<OpCaseMaker> norm_model() {
  std::vector<OpCaseMaker> all;
  for (const NormShape& s : {NormShape{1024, 576, 1, F, F, F}, NormShape{1024, 576, 1, F, B, B}})
    all.push_back(op_case<Case>(describe(s), s));
  return all;
}

// ---- rope ------------------------------------------------------------------------------------------------------------
struct RopeShape {
  int64_t rows, heads;
  int head_dim, direction;
  DType type;
};
std::string describe(const RopeShape& s) {
  return concat(s.rows, " x ", s.heads, " x ", s.head_dim, " ", type_name(s.type), s.direction > 0 ? "" : ", back");
}

Matrix angles(int64_t positions, int head_dim) {
  Matrix table(positions, head_dim);
  for (int64_t p = 0; p < positions; ++p) {
    for (int i = 0; i < head_dim / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * i / head_dim);
      table.set(p, i, std::cos(angle));
      table.set(p, head_dim / 2 + i, std::sin(angle));
    }
  }
  return table;
}
std::vector<int32_t> some_positions(int64_t rows, int64_t positions) {
  std::vector<int32_t> at(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) at[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7 + positions - 1) % positions);
  return at;
}

class RopeCase : public OpCase {
 public:
  explicit RopeCase(const RopeShape& s)
      : s_(s), before_(Matrix::random(s.rows, s.heads * s.head_dim, s.type, 1)), x_(before_), cos_sin_(angles(kPositions, s.head_dim)),
        positions_(some_positions(s.rows, kPositions)) {}
  void prepare(const Table&, Backend*) override { x_ = before_; }
  void call(const Table& ops, Backend* backend) override {
    ops.rope(backend, x_.tensor(), s_.head_dim, cos_sin_.tensor(), positions_.data(), s_.direction);
  }
  void check(const Table&, Backend*) override {
    const Array y = reference::rope(Array(before_), s_.head_dim, Array(cos_sin_), positions_, s_.direction);
    expect_values("x", x_, y, [&](int64_t i, int64_t j) {
      const int64_t half = s_.head_dim / 2, other = j % s_.head_dim < half ? j + half : j - half;
      return 2 * rounding(s_.type) * (std::abs(before_.at(i, j)) + std::abs(before_.at(i, other)));
    });
  }

 private:
  static constexpr int64_t kPositions = 40;
  RopeShape s_;
  Matrix before_, x_, cos_sin_;
  std::vector<int32_t> positions_;
};

// ---- swiglu ----------------------------------------------------------------------------------------------------------
struct GateShape {
  int64_t rows, n;
  DType type;
};
std::string describe(const GateShape& s) { return concat(s.rows, " x ", s.n, " ", type_name(s.type)); }

Matrix gates(const GateShape& s) {
  Matrix m = Matrix::random(s.rows, 2 * s.n, s.type, 1, 4.0);
  const double extremes[] = {120.0, -120.0, 0.0};
  for (int64_t i = 0; i < std::min<int64_t>(3, s.rows); ++i) m.set(i, 0, extremes[i]);
  return m;
}
double gate_rounding(DType type) { return type == F ? 1e-6 : 8e-3; }

class SwigluCase : public OpCase {
 public:
  explicit SwigluCase(const GateShape& s) : s_(s), gate_up_(gates(s)), out_(s.rows, s.n, s.type) {}
  void call(const Table& ops, Backend* backend) override { ops.swiglu(backend, out_.tensor(), gate_up_.tensor()); }
  void check(const Table&, Backend*) override {
    const Array out = reference::swiglu(Array(gate_up_));
    expect_values("out", out_, out, [&](int64_t i, int64_t j) { return gate_rounding(s_.type) * (1e-3 + std::abs(out.at(i, j))); });
  }

 private:
  GateShape s_;
  Matrix gate_up_, out_;
};

class SwigluBackwardCase : public OpCase {
 public:
  explicit SwigluBackwardCase(const GateShape& s)
      : s_(s), gate_up_(gates(s)), dout_(Matrix::random(s.rows, s.n, s.type, 2)), d_(s.rows, 2 * s.n, s.type) {}
  void call(const Table& ops, Backend* backend) override {
    ops.swiglu_backward(backend, d_.tensor(), dout_.tensor(), gate_up_.tensor(), Tensor());
  }
  void check(const Table& ops, Backend* backend) override {
    const Array gate_up(gate_up_), d = reference::swiglu_backward(gate_up, Array(dout_));
    expect_values("dgate_up", d_, d, [&](int64_t i, int64_t j) {
      const int64_t column = j % s_.n;
      const double g = gate_up.at(i, column),
                   size = j < s_.n ? std::abs(dout_.at(i, column) * gate_up.at(i, s_.n + column)) * (1 + std::abs(g))
                                   : std::abs(d.at(i, j));
      return 1e-6 + 2 * gate_rounding(s_.type) * (1e-2 + size);
    });
    Matrix in_place = gate_up_, out = dout_, expected = dout_;
    ops.swiglu(backend, expected.tensor(), gate_up_.tensor());
    ops.swiglu_backward(backend, in_place.tensor(), out.tensor(), in_place.tensor(), out.tensor());
    EXPECT(in_place == d_);
    EXPECT(out == expected);
  }

 private:
  GateShape s_;
  Matrix gate_up_, dout_, d_;
};

template <class Case>
std::vector<OpCaseMaker> gate_cases() {
  std::vector<OpCaseMaker> all;
  std::vector<int64_t> widths = kWidths;
  for (const int64_t n : {1023, 1024, 1025}) widths.push_back(n);
  for (const Combination& c : pairwise({around({16}), widths, {0, 1}}, elements, 40'000)) {  // 16 rows of 2048 elements are a task
    const GateShape s{c[0], c[1], kTypes[c[2]]};
    all.push_back(op_case<Case>(describe(s), s));
  }
  return all;
}
template <class Case>
std::vector<OpCaseMaker> gate_model() {
  std::vector<OpCaseMaker> all;
  for (const DType type : kTypes) {
    const GateShape s{1024, 1536, type};
    all.push_back(op_case<Case>(describe(s), s));
  }
  return all;
}

}  // namespace

std::vector<OpCaseMaker> OpCases::rms_norm_edges() { return norm_cases<NormCase>(); }
std::vector<OpCaseMaker> OpCases::rms_norm_model() { return norm_model<NormCase>(); }
std::vector<OpCaseMaker> OpCases::rms_norm_backward_edges() { return norm_cases<NormBackwardCase>(); }
std::vector<OpCaseMaker> OpCases::rms_norm_backward_model() { return norm_model<NormBackwardCase>(); }

std::vector<OpCaseMaker> OpCases::rope_edges() {
  std::vector<int64_t> dims;
  for (const int64_t half : around({4, 8, 16, 32})) dims.push_back(2 * half);
  std::vector<OpCaseMaker> all;
  for (const Combination& c : pairwise({around({8}), {1, 2, 3}, dims, {1, -1}, {0, 1}}, elements, 1e9)) {
    const RopeShape s{c[0], c[1], static_cast<int>(c[2]), static_cast<int>(c[3]), kTypes[c[4]]};
    all.push_back(op_case<RopeCase>(describe(s), s));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::rope_model() {
  std::vector<OpCaseMaker> all;
  for (const DType type : kTypes) {
    const RopeShape s{1024, 9, 64, 1, type};
    all.push_back(op_case<RopeCase>(describe(s), s));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::swiglu_edges() { return gate_cases<SwigluCase>(); }
std::vector<OpCaseMaker> OpCases::swiglu_model() { return gate_model<SwigluCase>(); }
std::vector<OpCaseMaker> OpCases::swiglu_backward_edges() { return gate_cases<SwigluBackwardCase>(); }
std::vector<OpCaseMaker> OpCases::swiglu_backward_model() { return gate_model<SwigluBackwardCase>(); }

void OpCases::rms_norm_gradient() {
  constexpr double kSoft = 1e-3;                     // an epsilon that can be seen in the gradient
  for (const int groups : {1, 3}) {
    Matrix x = Matrix::random(5, 21, F, 1), weight = Matrix::random(1, 21 / groups, F, 2), dy = Matrix::random(5, 21, F, 3),
           rstd(5, groups);
    Array ax(x), aw(weight);
    const Array ady(dy), r = reference::rms_norm(ax, aw, kSoft, groups).rstd;
    const auto loss = [&] { return dot(reference::rms_norm(ax, aw, kSoft, groups).y, ady); };
    const Array dx = slopes(ax, loss), dweight = slopes(aw, loss);
    for (int64_t i = 0; i < 5; ++i) {
      for (int g = 0; g < groups; ++g) rstd.set(i, g, r.at(i, g));
    }
    on_every_backend([&](const Table& ops, Backend* backend) {
      Matrix found(5, 21), found_weight = Matrix::filled(1, 21 / groups, F, 0.0);
      ops.rms_norm_backward(backend, found.tensor(), found_weight.tensor(), dy.tensor(), x.tensor(), weight.tensor(), rstd.tensor(),
                            groups, false);
      expect_gradient("dx", found, dx, 4e-6);
      expect_gradient("dweight", found_weight, dweight, 4e-6);
    });
  }
}

void OpCases::rope_gradient() {
  const int head_dim = 10;
  Matrix x = Matrix::random(4, 2 * head_dim, F, 1), dy = Matrix::random(4, 2 * head_dim, F, 2), cos_sin = angles(20, head_dim);
  const std::vector<int32_t> positions = some_positions(4, 20);
  Array ax(x);
  const Array dx = slopes(ax, [&] { return dot(reference::rope(ax, head_dim, Array(cos_sin), positions, 1), Array(dy)); });
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found = dy;
    ops.rope(backend, found.tensor(), head_dim, cos_sin.tensor(), positions.data(), -1);
    expect_gradient("dx", found, dx, 1e-6);
  });
}

void OpCases::swiglu_gradient() {
  Matrix gate_up = Matrix::random(4, 34, F, 1, 2.0), dout = Matrix::random(4, 17, F, 2);
  Array g(gate_up);
  const Array d = slopes(g, [&] { return dot(reference::swiglu(g), Array(dout)); });
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found(4, 34);
    ops.swiglu_backward(backend, found.tensor(), dout.tensor(), gate_up.tensor(), Tensor());
    expect_gradient("dgate_up", found, d, 4e-6);
  });
}

}  // namespace rlhi::test
