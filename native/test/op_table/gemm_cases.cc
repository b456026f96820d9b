// The matrix product in its three forms, and packed weights.
#include <cstring>

#include "test/op_table/op_table.h"
#include "test/packed.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::GemmArgs;
using ops::GemmForm;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

struct ProductShape {
  GemmForm form;
  int64_t m, n, k;
  DType a, b, c;
  bool bias = false, accumulate = false, packed = false;
};
std::string describe(const ProductShape& s) {
  const char* form = s.form == GemmForm::nt ? "nt" : s.form == GemmForm::nn ? "nn" : "tn";
  return concat(form, " ", s.m, " x ", s.n, " x ", s.k, " ", type_name(s.a), " ", type_name(s.b), " to ", type_name(s.c),
                s.bias ? ", bias" : "", s.accumulate ? ", added" : "", s.packed ? ", packed" : "");
}

class ProductCase : public OpCase {
 public:
  explicit ProductCase(const ProductShape& s)
      : s_(s), a_(s.form == GemmForm::tn ? Matrix::random(s.k, s.m, s.a, 1) : Matrix::random(s.m, s.k, s.a, 1)),
        b_(s.form == GemmForm::nt ? Matrix::random(s.n, s.k, s.b, 2) : Matrix::random(s.k, s.n, s.b, 2)),
        bias_(Matrix::random(1, s.n, s.b, 3)), before_(Matrix::random(s.m, s.n, s.c, 4)), c_(before_) {}
  void prepare(const Table& ops, Backend* backend) override {
    c_ = before_;
    if (s_.packed) pack_.emplace(ops, backend, b_.tensor());
  }
  void call(const Table& ops, Backend* backend) override {
    GemmArgs g;
    g.form = s_.form;
    g.a = a_.tensor(), g.c = c_.tensor();
    if (pack_ && pack_->is_packed()) g.packed_b = &pack_->weight();
    else g.b = b_.tensor();
    if (s_.bias) g.bias = bias_.tensor();
    g.accumulate = s_.accumulate;
    ops.gemm(backend, g);
  }
  void check(const Table& ops, Backend*) override {
    pack_.reset();
    if (expected_.sums.rows == 0) compute();
    const double term = 4e-7 + factor_rounding(ops, s_.a, s_.b);
    expect_values("c", c_, expected_.sums, [&](int64_t i, int64_t j) {
      return term * expected_.sizes.at(i, j) + rounding(s_.c) * std::abs(expected_.sums.at(i, j));
    });
  }

 private:
  void compute() {
    const Array a(a_), b(b_);
    expected_ = reference::product(s_.form == GemmForm::tn ? transposed(a) : a, s_.form == GemmForm::nt ? b : transposed(b));
    for (int64_t i = 0; i < s_.m; ++i) {
      for (int64_t j = 0; j < s_.n; ++j) {
        const double start = (s_.accumulate ? before_.at(i, j) : 0.0) + (s_.bias ? bias_.at(0, j) : 0.0);
        expected_.sums.at(i, j) += start, expected_.sizes.at(i, j) += std::abs(start);
      }
    }
  }

  ProductShape s_;
  Matrix a_, b_, bias_, before_, c_;
  std::optional<Packed> pack_;
  reference::Product expected_;
};

// A packed weight times rows of the unit matrix is the weight, bit for bit.
class PackCase : public OpCase {
 public:
  PackCase(int64_t n, int64_t k, DType type) : w_(Matrix::random(n, k, type, 1)) {}
  void prepare(const Table& ops, Backend* backend) override { pack_.emplace(ops, backend, w_.tensor()); }
  void call(const Table& ops, Backend* backend) override {
    if (pack_->is_packed()) ops.pack_weight(backend, &pack_->weight(), w_.tensor());
  }
  void check(const Table& ops, Backend* backend) override {
    if (pack_->is_packed()) expect_weight(ops, backend);
    pack_.reset();
  }

 private:
  void expect_weight(const Table& ops, Backend* backend) {
    EXPECT_EQ(pack_->weight().n, w_.rows());
    EXPECT_EQ(pack_->weight().k, w_.cols());
    EXPECT(pack_->weight().dtype == w_.dtype());
    Matrix unit = Matrix::filled(w_.cols(), w_.cols(), w_.dtype(), 0.0), c(w_.cols(), w_.rows(), w_.dtype());
    for (int64_t i = 0; i < w_.cols(); ++i) unit.set(i, i, 1.0);
    GemmArgs g;
    g.a = unit.tensor(), g.c = c.tensor(), g.packed_b = &pack_->weight();
    ops.gemm(backend, g);
    for (int64_t i = 0; i < w_.cols(); ++i) {
      for (int64_t j = 0; j < w_.rows(); ++j) EXPECT_EQ(c.at(i, j), w_.at(j, i));
    }
  }

  Matrix w_;
  std::optional<Packed> pack_;
};

double multiply_adds(const Combination& c) { return static_cast<double>(c[0] * c[1] * c[2]); }

void add_products(std::vector<OpCaseMaker>& all, GemmForm form, const std::vector<std::vector<int64_t>>& sizes,
                  const std::vector<std::pair<DType, DType>>& factors) {
  std::vector<int64_t> types(factors.size());
  for (size_t i = 0; i < types.size(); ++i) types[i] = static_cast<int64_t>(i);
  std::vector<std::vector<int64_t>> choices = sizes;
  choices.insert(choices.end(), {types, {0, 1}, {0, 1}, {0, 1}, {0, 1}});
  for (const Combination& c : pairwise(choices, multiply_adds, 2'500'000)) {
    const auto [a, b] = factors[static_cast<size_t>(c[3])];
    ProductShape s{form, c[0], c[1], c[2], a, b, kTypes[c[4]], c[5] == 1};
    s.accumulate = c[6] == 1;
    s.packed = c[7] == 1 && form == GemmForm::nt;
    all.push_back(op_case<ProductCase>(describe(s), s));
  }
}

}  // namespace

std::vector<OpCaseMaker> OpCases::gemm_edges() {
  std::vector<OpCaseMaker> all;
  // Of f32: panels of 4, 6 and 14 rows, some 72 rows a task; panels of 8, 16 and 32 columns, 64 panels a task; blocks of 256 of k.
  const std::vector<std::vector<int64_t>> f32{around({4, 6, 14, 72}), around({8, 16, 32, 512, 1024}), around({16, 256})};
  // By tiles: 16 rows and columns, panels of two; steps of 32 of k, at most 18 a block.
  const std::vector<std::vector<int64_t>> tiles{around({16, 32, 64}), around({16, 32, 64}), around({32, 576})};
  const std::vector<std::vector<int64_t>> mixed{around({14, 32}), around({16, 32}), {1, 33, 256, 257, 577}};
  for (const GemmForm form : {GemmForm::nt, GemmForm::nn, GemmForm::tn}) {
    add_products(all, form, f32, {{F, F}});
    add_products(all, form, tiles, {{B, B}});
    add_products(all, form, mixed, {{F, B}, {B, F}});
  }
  // Several tasks of rows and of columns at once; few rows by many columns; k beyond the blocks.
  for (const ProductShape& s :
       {ProductShape{GemmForm::nt, 301, 700, 260, F, F, F}, ProductShape{GemmForm::nt, 301, 700, 260, F, B, B, true, false, true},
        ProductShape{GemmForm::nn, 150, 2500, 40, F, F, F}, ProductShape{GemmForm::tn, 700, 90, 301, B, B, F, false, true},
        ProductShape{GemmForm::tn, 90, 700, 1300, B, B, B, false, true}, ProductShape{GemmForm::tn, 90, 70, 1300, F, F, B, false, true},
        ProductShape{GemmForm::nt, 3, 5000, 70, F, B, F, false, false, true}, ProductShape{GemmForm::nt, 5, 40, 3000, B, B, B}}) {
    all.push_back(op_case<ProductCase>(describe(s), s));
  }
  return all;
}

std::vector<OpCaseMaker> OpCases::gemm_model() {
  std::vector<OpCaseMaker> all;
  constexpr int64_t kTokens = 1024, kHidden = 576, kGateUp = 3072;
  for (const DType t : kTypes) {
    for (const ProductShape& s : {ProductShape{GemmForm::nt, kTokens, kGateUp, kHidden, t, t, t, false, false, true},
                                  ProductShape{GemmForm::nn, kTokens, kHidden, kGateUp, t, t, t},
                                  ProductShape{GemmForm::tn, kGateUp, kHidden, kTokens, t, t, F, false, true},
                                  ProductShape{GemmForm::nt, 1, kGateUp, kHidden, t, t, t, false, false, true}}) {
      all.push_back(op_case<ProductCase>(describe(s), s));
    }
  }
  return all;
}

std::vector<OpCaseMaker> OpCases::pack_edges() {
  std::vector<OpCaseMaker> all;
  const auto size = [](const Combination& c) { return static_cast<double>(c[0] * c[1] * c[1]); };
  for (const Combination& c :
       pairwise({around({8, 16, 32}), {1, 2, 31, 32, 33, 63, 65, 127, 128, 129, 255, 257}, {0, 1}}, size, 5'000'000)) {
    all.push_back(op_case<PackCase>(concat(c[0], " x ", c[1], " ", type_name(kTypes[c[2]])), c[0], c[1], kTypes[c[2]]));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::pack_model() {
  std::vector<OpCaseMaker> all;
  for (const DType t : kTypes) all.push_back(op_case<PackCase>(concat("3072 x 576 ", type_name(t)), int64_t{3072}, int64_t{576}, t));
  return all;
}

// y = x W^T: nn gives dx, tn gives dW.
void OpCases::gemm_gradient() {
  Matrix x = Matrix::random(5, 7, F, 1), w = Matrix::random(9, 7, F, 2), dy = Matrix::random(5, 9, F, 3);
  Array ax(x), aw(w);
  const auto loss = [&] { return dot(reference::product(ax, aw).sums, Array(dy)); };
  const Array dx = slopes(ax, loss), dw = slopes(aw, loss);
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found(5, 7), found_w(9, 7);
    GemmArgs g;
    g.form = GemmForm::nn;
    g.a = dy.tensor(), g.b = w.tensor(), g.c = found.tensor();
    ops.gemm(backend, g);
    expect_gradient("dx", found, dx, 2e-6);
    g.form = GemmForm::tn;
    g.a = dy.tensor(), g.b = x.tensor(), g.c = found_w.tensor();
    ops.gemm(backend, g);
    expect_gradient("dW", found_w, dw, 2e-6);
  });
}

}  // namespace rlhi::test
