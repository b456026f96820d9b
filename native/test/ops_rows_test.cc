// Operations that work row by row, against the same in double.
#include <algorithm>
#include <numeric>

#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;
const std::vector<int64_t> kWidths{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130, 577};

TEST("copy, gather, scatter and embedding move rows and convert exactly") {
  on_every_backend([](const Table& ops, ops::Backend* backend) {
    for (const DType from_type : {F, B}) {
      for (const DType to_type : {F, B}) {
        for (const int64_t n : kWidths) {
          Matrix from = Matrix::random(9, n, from_type, 1), to = Matrix::filled(9, n, to_type, 0.0);
          const std::vector<int32_t> index{8, 0, 3, 3, 5};
          ops.copy(backend, to.tensor(), from.tensor());
          Matrix expected(9, n, to_type), gathered(5, n, to_type), rows(5, n, to_type);
          for (int64_t i = 0; i < 9; ++i) {
            for (int64_t j = 0; j < n; ++j) expected.set(i, j, from.at(i, j));
          }
          EXPECT(to == expected);
          ops.gather_rows(backend, gathered.tensor(), from.tensor(), index.data());
          ops.embedding(backend, rows.tensor(), from.tensor(), index.data());
          for (int64_t i = 0; i < 5; ++i) EXPECT(gathered.same_row(i, expected, index[static_cast<size_t>(i)]));
          EXPECT(rows == gathered);
          Matrix scattered = Matrix::filled(12, n, to_type, 5.0);
          const std::vector<int32_t> places{11, 2, 0, 7, 4, 5, 6, 1, 3};
          ops.scatter_rows(backend, scattered.tensor(), from.tensor(), places.data());
          for (int64_t i = 0; i < 9; ++i) EXPECT(scattered.same_row(places[static_cast<size_t>(i)], expected, i));
          for (const int64_t untouched : {8, 9, 10}) EXPECT_EQ(scattered.at(untouched, 0), 5.0);
          scattered.expect_gaps_untouched();
        }
      }
    }
  });
}

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

TEST("contiguous copies and sums of any length") {
  on_every_backend([](const Table& ops, ops::Backend* backend) {
    for (const int64_t n : {1, 5, 65535, 65536, 65537, 200001}) {
      std::vector<float> a(static_cast<size_t>(n)), b(static_cast<size_t>(n));
      std::iota(a.begin(), a.end(), 1.0f);
      ops.copy(backend, Tensor(b.data(), F, 1, n), Tensor(a.data(), F, 1, n));
      EXPECT(a == b);
      ops.add(backend, Tensor(b.data(), F, 1, n), Tensor(a.data(), F, 1, n));
      for (size_t i = 0; i < a.size(); ++i) {
        if (b[i] != 2 * a[i]) throw std::runtime_error(concat("element ", i, " of ", n));
      }
    }
  });
}

TEST("add, scatter_add_rows and column_sum") {
  on_every_backend([](const Table& ops, ops::Backend* backend) {
    for (const DType type : {F, B}) {
      for (const int64_t n : kWidths) {
        Matrix from = Matrix::random(150, n, type, 1), to = Matrix::random(150, n, type, 2);
        const Matrix before = to;
        ops.add(backend, to.tensor(), from.tensor());
        for (int64_t i = 0; i < 150; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            const double sum = before.at(i, j) + from.at(i, j);
            expect_close(to.at(i, j), sum, rounding(type) * std::abs(sum), "sum", i, j);
          }
        }
        to.expect_gaps_untouched();
        Matrix rows = Matrix::filled(4, n, F, 1.0), total = Matrix::filled(1, n, F, 2.0);
        std::vector<int32_t> index(150);
        for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>(i * i % 3);  // row 3 gets nothing, repeats within
        ops.scatter_add_rows(backend, rows.tensor(), from.tensor(), index.data());
        ops.column_sum(backend, total.tensor(), from.tensor());
        for (int64_t j = 0; j < n; ++j) {
          double sums[4] = {1, 1, 1, 1}, all = 2;
          for (int64_t i = 0; i < 150; ++i) sums[index[static_cast<size_t>(i)]] += from.at(i, j), all += from.at(i, j);
          for (int64_t i = 0; i < 4; ++i) expect_close(rows.at(i, j), sums[i], 5e-5, "scatter_add", i, j);
          expect_close(total.at(0, j), all, 5e-5, "column_sum", 0, j);
        }
        rows.expect_gaps_untouched();
        total.expect_gaps_untouched();
      }
    }
  });
}

// rms_norm in double: y, and the loss sum(dy y)'s derivatives.
struct NormReference {
  NormReference(const Matrix& x, const Matrix& w, const Matrix& dy, double eps, int groups) {
    const int64_t n = x.cols() / groups;
    y.resize(static_cast<size_t>(x.rows() * x.cols()));
    dx = y;
    rstd.resize(static_cast<size_t>(x.rows() * groups));
    dw.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < x.rows(); ++i) {
      for (int g = 0; g < groups; ++g) {
        double square = 0, mean = 0;
        for (int64_t j = 0; j < n; ++j) square += x.at(i, g * n + j) * x.at(i, g * n + j);
        const double r = 1 / std::sqrt(square / static_cast<double>(n) + eps);
        rstd[static_cast<size_t>(i * groups + g)] = r;
        for (int64_t j = 0; j < n; ++j) mean += dy.at(i, g * n + j) * w.at(0, j) * x.at(i, g * n + j) * r / static_cast<double>(n);
        for (int64_t j = 0; j < n; ++j) {
          const size_t at = static_cast<size_t>(i * x.cols() + g * n + j);
          const double xhat = x.at(i, g * n + j) * r;
          y[at] = xhat * w.at(0, j);
          dx[at] = r * (dy.at(i, g * n + j) * w.at(0, j) - xhat * mean);
          dw[static_cast<size_t>(j)] += dy.at(i, g * n + j) * xhat;
        }
      }
    }
  }
  std::vector<double> y, dx, rstd, dw;
};

TEST("rms_norm's reference gradient agrees with finite differences") {
  Matrix x = Matrix::random(2, 6, F, 1), w = Matrix::random(1, 3, F, 2);
  const Matrix dy = Matrix::random(2, 6, F, 3);
  const NormReference reference(x, w, dy, 1e-3, 2);
  const auto loss = [&] {
    const NormReference r(x, w, dy, 1e-3, 2);
    double sum = 0;
    for (int64_t i = 0; i < 12; ++i) sum += r.y[static_cast<size_t>(i)] * dy.at(i / 6, i % 6);
    return sum;
  };
  const auto slope = [&](Matrix& m, int64_t i, int64_t j) {  // steps as f32 holds them
    const double at = m.at(i, j);
    m.set(i, j, at + 1e-3);
    const double up = loss(), high = m.at(i, j);
    m.set(i, j, at - 1e-3);
    const double down = loss(), low = m.at(i, j);
    m.set(i, j, at);
    return (up - down) / (high - low);
  };
  for (int64_t i = 0; i < 12; ++i) EXPECT_NEAR(slope(x, i / 6, i % 6), reference.dx[static_cast<size_t>(i)], 1e-4);
  for (int64_t j = 0; j < 3; ++j) EXPECT_NEAR(slope(w, 0, j), reference.dw[static_cast<size_t>(j)], 1e-4);
}

TEST("rms_norm forward and backward, by groups, in place, with a copy of x") {
  for (const DType type : {F, B}) {
    for (const int groups : {1, 3}) {
      for (const int64_t n : kWidths) {
        constexpr int64_t rows = 70;  // more than one partial sum of dweight
        const double eps = 1e-5;
        Matrix x = Matrix::random(rows, n * groups, type, 1), w = Matrix::random(1, n, type, 2),
            dy = Matrix::random(rows, n * groups, type, 3);
        const NormReference r(x, w, dy, eps, groups);
        const double tolerance = type == F ? 4e-6 : 8e-3;
        on_every_backend([&](const Table& ops, ops::Backend* backend) {
          Matrix y(rows, n * groups, type), rstd(rows, groups), kept(rows, n * groups, type), in_place = x;
          ops.rms_norm(backend, y.tensor(), x.tensor(), w.tensor(), static_cast<float>(eps), groups, rstd.tensor(), kept.tensor());
          ops.rms_norm(backend, in_place.tensor(), in_place.tensor(), w.tensor(), static_cast<float>(eps), groups, Tensor(), Tensor());
          EXPECT(in_place == y);
          for (int64_t i = 0; i < rows; ++i) EXPECT(kept.same_row(i, x, i));
          Matrix dx(rows, n * groups, type), dw = Matrix::filled(1, n, F, 1.0), added = Matrix::filled(rows, n * groups, F, 2.0), over = dy;
          ops.rms_norm_backward(backend, dx.tensor(), dw.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, false);
          ops.rms_norm_backward(backend, added.tensor(), Tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, true);
          ops.rms_norm_backward(backend, over.tensor(), Tensor(), over.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, false);
          EXPECT(over == dx);
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = 0; j < n * groups; ++j) {
              const size_t at = static_cast<size_t>(i * n * groups + j);
              const double scale = r.rstd[static_cast<size_t>(i * groups + j / n)];
              expect_close(y.at(i, j), r.y[at], tolerance * (1 + std::abs(r.y[at])), "y", i, j);
              expect_close(dx.at(i, j), r.dx[at], tolerance * (10 * scale + std::abs(r.dx[at])), "dx", i, j);
              expect_close(added.at(i, j), r.dx[at] + 2, 4e-6 * (10 * scale + std::abs(r.dx[at])), "dx added", i, j);
            }
            for (int g = 0; g < groups; ++g) {
              const double expected = r.rstd[static_cast<size_t>(i * groups + g)];
              expect_close(rstd.at(i, g), expected, 2e-6 * expected, "rstd", i, g);
            }
          }
          for (int64_t j = 0; j < n; ++j) expect_close(dw.at(0, j), r.dw[static_cast<size_t>(j)] + 1, 1e-4, "dweight", 0, j);
          for (const Matrix* m : {&y, &rstd, &kept, &dx, &dw, &added}) m->expect_gaps_untouched();
        });
      }
    }
  }
}

TEST("sums over rows have the same bits on any number of threads") {
  for (const BackendChoice& choice : every_backend()) {
    Matrix x = Matrix::random(500, 40, F, 1), w = Matrix::random(1, 40, F, 2), dy = Matrix::random(500, 40, F, 3);
    std::vector<Matrix> results;
    std::vector<double> squares;
    for (const int threads : {1, 2, 3, 5}) {
      OpsBackend& b = backend_of(choice, threads);
      Matrix y(500, 40), rstd(500, 1), dx(500, 40), dw = Matrix::filled(1, 40, F, 0.0), sums = Matrix::filled(1, 40, F, 0.0);
      b.table().rms_norm(b.handle(), y.tensor(), x.tensor(), w.tensor(), 1e-6f, 1, rstd.tensor(), Tensor());
      b.table().rms_norm_backward(b.handle(), dx.tensor(), dw.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), 1, false);
      b.table().column_sum(b.handle(), sums.tensor(), x.tensor());
      results.push_back(dw);
      results.push_back(sums);
      std::vector<float> many(300'000);
      for (size_t i = 0; i < many.size(); ++i) many[i] = std::sin(static_cast<float>(i));
      squares.push_back(b.table().sum_of_squares(b.handle(), many.data(), static_cast<int64_t>(many.size())));
    }
    for (size_t i = 2; i < results.size(); ++i) EXPECT(results[i] == results[i % 2]);
    for (const double s : squares) EXPECT_EQ(s, squares[0]);
  }
}

TEST("rope rotates halves by the position's angles and its backward undoes it") {
  for (const DType type : {F, B}) {
    for (const int head_dim : {2, 4, 6, 8, 10, 16, 34, 64, 128}) {
      constexpr int64_t rows = 7, heads = 3, positions = 40;
      Matrix x = Matrix::random(rows, heads * head_dim, type, 1), table(positions, head_dim);
      for (int64_t p = 0; p < positions; ++p) {
        for (int i = 0; i < head_dim / 2; ++i) {
          const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * i / head_dim);
          table.set(p, i, std::cos(angle));
          table.set(p, head_dim / 2 + i, std::sin(angle));
        }
      }
      const std::vector<int32_t> at{0, 39, 1, 1, 17, 5, 38};
      on_every_backend([&](const Table& ops, ops::Backend* backend) {
        Matrix y = x;
        ops.rope(backend, y.tensor(), head_dim, table.tensor(), at.data(), 1);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t p = at[static_cast<size_t>(i)];
          for (int64_t h = 0; h < heads; ++h) {
            for (int j = 0; j < head_dim / 2; ++j) {
              const double x1 = x.at(i, h * head_dim + j), x2 = x.at(i, h * head_dim + head_dim / 2 + j), c = table.at(p, j),
                  s = table.at(p, head_dim / 2 + j);
              const double tolerance = 2 * rounding(type) * (std::abs(x1) + std::abs(x2));
              expect_close(y.at(i, h * head_dim + j), x1 * c - x2 * s, tolerance, "first half", i, j);
              expect_close(y.at(i, h * head_dim + head_dim / 2 + j), x2 * c + x1 * s, tolerance, "second half", i, j);
            }
          }
        }
        ops.rope(backend, y.tensor(), head_dim, table.tensor(), at.data(), -1);
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < heads * head_dim; ++j) expect_close(y.at(i, j), x.at(i, j), 20 * rounding(type), "there and back", i, j);
        }
        y.expect_gaps_untouched();
      });
    }
  }
  OpsBackend& backend = backend_of();
  Matrix x(1, 4), table(3, 4);
  const int32_t beyond = 3;
  EXPECT_ERROR(backend.table().rope(backend.handle(), x.tensor(), 4, table.tensor(), &beyond, 1), ErrorCode::invalid_argument,
               "position 3");
}

TEST("swiglu forward and backward, also in place") {
  for (const DType type : {F, B}) {
    for (const int64_t n : kWidths) {
      constexpr int64_t rows = 5;
      Matrix gate_up = Matrix::random(rows, 2 * n, type, 1, 4.0), dout = Matrix::random(rows, n, type, 2);
      gate_up.set(0, 0, 120.0), gate_up.set(1, 0, -120.0), gate_up.set(2, 0, 0.0);
      on_every_backend([&](const Table& ops, ops::Backend* backend) {
        Matrix out(rows, n, type), d(rows, 2 * n, type), in_place = gate_up;
        ops.swiglu(backend, out.tensor(), gate_up.tensor());
        ops.swiglu_backward(backend, d.tensor(), dout.tensor(), gate_up.tensor());
        ops.swiglu_backward(backend, in_place.tensor(), dout.tensor(), in_place.tensor());
        EXPECT(in_place == d);
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            const double g = gate_up.at(i, j), u = gate_up.at(i, n + j), o = dout.at(i, j), s = 1 / (1 + std::exp(-g));
            const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
            const double slope = (silu(g + 1e-5) - silu(g - 1e-5)) / 2e-5;  // finite differences of the definition
            const double tolerance = (type == F ? 1e-6 : 8e-3);
            expect_close(out.at(i, j), g * s * u, tolerance * (1e-3 + std::abs(g * s * u)), "out", i, j);
            expect_close(d.at(i, j), o * u * slope, 1e-6 + 2 * tolerance * (1e-2 + std::abs(o * u) * (1 + std::abs(g))), "dgate", i, j);
            expect_close(d.at(i, n + j), o * g * s, tolerance * (1e-3 + std::abs(o * g * s)), "dup", i, j);
          }
        }
        out.expect_gaps_untouched();
        d.expect_gaps_untouched();
      });
    }
  }
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
    EXPECT_EQ(ops.sum_of_squares(backend, nullptr, 0), 0.0);
  });
}

}  // namespace
}  // namespace rlhi::test
