// Operations that work row by row: conversion, bits on any number of threads, no rows at all. Values at every edge are op_table's.
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

TEST("conversion to bf16 rounds to nearest even, and keeps NaN and infinity") {
  const std::vector<float> values{1.0f, 1.00390625f, 1.01171875f, -1.00390626f, 3.4e38f, -3.4e38f, 1e-40f, 0.0f, -0.0f, INFINITY,
      -INFINITY, NAN, 1e-20f,
                                  65504.0f, 0.1f, 7.0f, 8.0f};
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    std::vector<float> from(values);
    std::vector<bf16> to(values.size());
    const int64_t n = static_cast<int64_t>(values.size());
    ops.copy(backend, Tensor(to.data(), B, 1, n), Tensor(from.data(), F, 1, n));
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) EXPECT(std::isnan(to_float(to[i])));
      else if (std::abs(values[i]) < 1.2e-38f) EXPECT(to[i].bits == 0 || to[i].bits == to_bf16(values[i]).bits);  // denormals may be zero
      else EXPECT_EQ(to[i].bits, to_bf16(values[i]).bits);
    }
  });
}

TEST("sums over rows have the same bits on any number of threads") {
  for (const BackendChoice& choice : every_backend()) {
    Matrix x = Matrix::random(500, 40, F, 1), w = Matrix::random(1, 40, F, 2), dy = Matrix::random(500, 40, F, 3);
    std::vector<Matrix> results;
    std::vector<double> squares;
    const std::vector<int> threads{1, 2, 5, 16};       // 16: more than there are partial sums
    for (const int n : threads) {
      OpsBackend& b = backend_of(choice, n);
      Matrix y(500, 40), rstd(500, 1), dx(500, 40), dw = Matrix::filled(1, 40, F, 0.0), sums = Matrix::filled(1, 40, F, 0.0);
      b.table().rms_norm(b.handle(), y.tensor(), x.tensor(), w.tensor(), 1e-6f, 1, rstd.tensor(), Tensor());
      b.table().rms_norm_backward(b.handle(), dx.tensor(), dw.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), 1, false);
      b.table().column_sum(b.handle(), sums.tensor(), x.tensor());
      results.insert(results.end(), {dx, dw, sums});
      std::vector<float> many(300'000);
      for (size_t i = 0; i < many.size(); ++i) many[i] = std::sin(static_cast<float>(i));
      squares.push_back(0);
      b.table().sum_of_squares(b.handle(), Tensor(many.data(), F, 1, static_cast<int64_t>(many.size())), &squares.back());
    }
    for (size_t i = 3; i < results.size(); ++i) EXPECT(results[i] == results[i % 3]);
    for (const double s : squares) EXPECT_EQ(s, squares[0]);
  }
}

TEST("rope: a position beyond the table is refused") {
  OpsBackend& backend = backend_of();
  Matrix x(1, 4), table(3, 4);
  const int32_t beyond = 3;
  EXPECT_ERROR(backend.table().rope(backend.handle(), x.tensor(), 4, table.tensor(), &beyond, 1), ErrorCode::invalid_argument,
               "position 3");
}

TEST("operations on no rows do nothing") {
  on_every_backend([](const Table& ops, ops::Backend* backend) {
    Matrix x(0, 8), y(0, 8), w = Matrix::filled(1, 8, F, 1.0), rstd(0, 1), wide(0, 16), table = Matrix::filled(3, 8, F, 1.0);
    Matrix sum = Matrix::filled(1, 8, F, 4.0);
    ops.copy(backend, y.tensor(), x.tensor());
    ops.add(backend, y.tensor(), x.tensor());
    ops.gather_rows(backend, y.tensor(), w.tensor(), nullptr);
    ops.scatter_rows(backend, w.tensor(), x.tensor(), nullptr);
    ops.scatter_add_rows(backend, w.tensor(), x.tensor(), nullptr);
    ops.rms_norm(backend, y.tensor(), x.tensor(), w.tensor(), 1e-6f, 1, rstd.tensor(), Tensor());
    ops.rms_norm_backward(backend, y.tensor(), sum.tensor(), x.tensor(), x.tensor(), w.tensor(), rstd.tensor(), 1, false);
    ops.rope(backend, x.tensor(), 8, table.tensor(), nullptr, 1);
    ops.swiglu(backend, y.tensor(), wide.tensor());
    ops.column_sum(backend, sum.tensor(), x.tensor());
    for (int64_t j = 0; j < 8; ++j) {
      EXPECT_EQ(w.at(0, j), 1.0);
      EXPECT_EQ(sum.at(0, j), 4.0);
    }
    double squares = 1;
    ops.sum_of_squares(backend, Tensor(nullptr, F, 1, 0), &squares);
    EXPECT_EQ(squares, 0.0);
  });
}

}  // namespace
}  // namespace rlhi::test
