// The bits of the matrix product, which must not depend on the rows beside a row, on packing, or on threads; results past the caches;
// and what is refused. Values at every edge are op_table/gemm_cases.cc's.
#include <algorithm>
#include <array>

#include "test/ops_support.h"
#include "test/packed.h"

namespace rlhi::test {
namespace {

using ops::GemmArgs;
using ops::GemmForm;
using ops::Table;

struct Problem {
  int64_t m, n, k;
  GemmForm form;
  DType a, b, c;
  bool bias = false, accumulate = false, packed = false;
};

Matrix make_a(const Problem& p) {
  return p.form == GemmForm::tn ? Matrix::random(p.k, p.m, p.a, 1) : Matrix::random(p.m, p.k, p.a, 1);
}
Matrix make_b(const Problem& p) {
  return p.form == GemmForm::nt ? Matrix::random(p.n, p.k, p.b, 2) : Matrix::random(p.k, p.n, p.b, 2);
}

Matrix multiply(const Table& ops, ops::Backend* backend, const Problem& p, Matrix& a, Matrix& b, Matrix& bias) {
  Matrix c = Matrix::random(p.m, p.n, p.c, 4);
  GemmArgs g;
  g.form = p.form;
  g.a = a.tensor();
  g.c = c.tensor();
  if (p.bias) g.bias = bias.tensor();
  g.accumulate = p.accumulate;
  std::optional<Packed> packed;
  if (p.packed) packed.emplace(ops, backend, b.tensor());
  if (packed && packed->is_packed()) g.packed_b = &packed->weight();
  else g.b = b.tensor();
  ops.gemm(backend, g);
  c.expect_gaps_untouched();
  return c;
}

constexpr DType F = DType::f32, B = DType::bf16;

TEST("gemm: a result too large for the caches, whose rows are aligned") {
  const int64_t m = 1024, n = 2048, k = 33;
  Matrix a = Matrix::random(m, k, B, 1), b = Matrix::random(n, k, B, 2), bias = Matrix::random(1, n, B, 3);
  for (const DType dtype : {F, B}) {
    for (const int64_t gap : {0, 32}) {  // rows side by side, and further apart
      for (const BackendChoice& choice : every_backend()) {
        OpsBackend& backend = backend_of(choice);
        const size_t bytes = static_cast<size_t>(m * (n + gap) * dtype_size(dtype));
        void* memory = backend.table().alloc(backend.handle(), bytes);
        GemmArgs g;
        g.a = a.tensor(), g.b = b.tensor(), g.bias = bias.tensor();
        g.c = Tensor(memory, dtype, m, n, n + gap);
        backend.table().gemm(backend.handle(), g);
        Matrix c(m, n, dtype);
        backend.table().copy(backend.handle(), c.tensor(), g.c);
        for (const int64_t i : {0, 1, 511, 1023}) {
          for (const int64_t j : {0, 31, 1024, 2047}) {
            double sum = bias.at(0, j);
            for (int64_t t = 0; t < k; ++t) sum += a.at(i, t) * b.at(j, t);
            expect_close(c.at(i, j), sum, 1e-4 + rounding(dtype) * std::abs(sum), "c", i, j);
          }
        }
        backend.table().release(backend.handle(), memory, bytes);
      }
    }
  }
}

TEST("gemm: AMX has the bits of its tiles in plain C++") {
  const std::vector<ops::CpuIsa> isas = ops::available_isas();
  if (!on_cpu() || std::find(isas.begin(), isas.end(), ops::CpuIsa::amx) == isas.end()) skip("no AMX on this machine");
  for (const GemmForm form : {GemmForm::nt, GemmForm::nn, GemmForm::tn}) {
    for (const int64_t k : {7, 100, 1300}) {
      const Problem p{50, 70, k, form, B, B, F, form == GemmForm::nt, form == GemmForm::tn};
      Matrix a = make_a(p), b = make_b(p), bias = Matrix::random(1, p.n, B, 3);
      OpsBackend& amx = backend_of({"cpu", ops::CpuIsa::amx});
      OpsBackend& plain = backend_of({"cpu", ops::CpuIsa::portable_tiles});
      const Matrix expected = multiply(plain.table(), plain.handle(), p, a, b, bias);
      const Matrix found = multiply(amx.table(), amx.handle(), p, a, b, bias);
      for (int64_t i = 0; i < p.m; ++i) EXPECT(found.same_row(i, expected, i));
    }
  }
}

TEST("gemm: no rows, no columns and an empty sum") {
  on_every_backend([](const Table& ops, ops::Backend* backend) {
    Matrix none(0, 8), b = Matrix::random(5, 8, F, 1), c(0, 5);
    GemmArgs g;
    g.a = none.tensor(), g.b = b.tensor(), g.c = c.tensor();
    ops.gemm(backend, g);
    Matrix a0(3, 0), b0(4, 0), c0 = Matrix::filled(3, 4, F, 7.0);
    g.a = a0.tensor(), g.b = b0.tensor(), g.c = c0.tensor();
    ops.gemm(backend, g);
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < 4; ++j) EXPECT_EQ(c0.at(i, j), 0.0);
    }
  });
}

TEST("gemm: a row has the same bits alone and among others, packed or not, on any number of threads") {
  constexpr int64_t n = 150, k = 600;
  for (const DType dtype : {F, B}) {
    for (const BackendChoice& choice : every_backend()) {
      OpsBackend& one = backend_of(choice, 1);
      Matrix b = Matrix::random(n, k, dtype, 2), bias = Matrix::random(1, n, dtype, 3);
      Matrix a100 = Matrix::random(100, k, dtype, 1);
      const Problem whole{100, n, k, GemmForm::nt, dtype, dtype, dtype, true, false, false};
      const Matrix expected = multiply(one.table(), one.handle(), whole, a100, b, bias);
      for (const int threads : {1, 2, 3, 5}) {
        OpsBackend& backend = backend_of(choice, threads);
        for (const int64_t m : {1, 2, 7, 33, 100}) {
          for (const bool packed : {false, true}) {
            Matrix a = Matrix::random(m, k, dtype, 9);
            const int64_t offset = 100 - m;
            for (int64_t i = 0; i < m; ++i) {
              for (int64_t t = 0; t < k; ++t) a.set(i, t, a100.at(offset + i, t));
            }
            Problem p = whole;
            p.m = m, p.packed = packed;
            const Matrix c = multiply(backend.table(), backend.handle(), p, a, b, bias);
            for (int64_t i = 0; i < m; ++i) EXPECT(c.same_row(i, expected, offset + i));
          }
        }
      }
    }
  }
}

TEST("gemm: few rows that are aligned have the bits of many") {
  for (const auto& [n, k] : {std::array<int64_t, 2>{4, 64}, {60, 128}, {68, 192}, {200, 1024}, {576, 576}}) {
    for (const DType c_dtype : {F, B}) {
      for (const int added : {0, 1, 2}) {  // nothing, a bias, c as it was
        on_every_backend([&](const Table& ops, ops::Backend* backend) {
          const auto multiply_rows = [&](int64_t m, Matrix& a, Matrix& b, Matrix& bias) {
            Matrix c = Matrix::filled(m, n, c_dtype, 0.5, 8);
            GemmArgs g;
            g.a = a.tensor(), g.b = b.tensor(), g.c = c.tensor();
            if (added == 1) g.bias = bias.tensor();
            g.accumulate = added == 2;
            ops.gemm(backend, g);
            c.expect_gaps_untouched();
            return c;
          };
          Matrix many = Matrix::random(140, k, B, 1, 1.0, 8), b = Matrix::random(n, k, B, 2, 1.0, 8), bias = Matrix::random(1, n, c_dtype, 3, 1.0, 8);
          const Matrix expected = multiply_rows(140, many, b, bias);
          for (const int64_t m : {1, 2, 31, 32, 33, 64, 65, 100, 128}) {
            Matrix a(m, k, B, 8);
            for (int64_t i = 0; i < m; ++i)
              for (int64_t t = 0; t < k; ++t) a.set(i, t, many.at(140 - m + i, t));
            const Matrix c = multiply_rows(m, a, b, bias);
            for (int64_t i = 0; i < m; ++i) EXPECT(c.same_row(i, expected, 140 - m + i));
          }
        });
      }
    }
  }
}

TEST("gemm: a shape that does not fit is refused") {
  OpsBackend& backend = backend_of();
  Matrix a(3, 8), b(5, 7), c(3, 5);
  GemmArgs g;
  g.a = a.tensor(), g.b = b.tensor(), g.c = c.tensor();
  EXPECT_ERROR(backend.table().gemm(backend.handle(), g), ErrorCode::invalid_argument, "b is [5, 7], expected [5, 8]");
}

TEST("gemm: a product that SwiGLU follows gives the bits of gemm and swiglu one after the other") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [m, f, k] : {std::array<int64_t, 3>{1, 32, 3}, {3, 33, 31}, {17, 64, 64}, {33, 96, 577}, {70, 32, 1536}, {200, 352, 1200}}) {
      for (const bool packed : {false, true}) {
        on_every_backend([&](const Table& ops, ops::Backend* backend) {
          Matrix x = Matrix::random(m, k, dtype, 5, 1.0, 8), w = Matrix::random(2 * f, k, dtype, 6, 1.0, 8), gate_up(m, 2 * f, dtype, 8),
                 expected(m, f, dtype, 8), found(m, f, dtype, 8);
          Packed pack(ops, backend, w.tensor());
          GemmArgs g;
          g.a = x.tensor(), g.b = w.tensor(), g.c = gate_up.tensor();
          if (packed && pack.is_packed()) g.packed_b = &pack.weight();
          ops.gemm(backend, g);
          ops.swiglu(backend, expected.tensor(), gate_up.tensor());
          g.c = found.tensor(), g.swiglu_c = true;
          ops.gemm(backend, g);
          found.expect_gaps_untouched();
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < f; ++j) EXPECT_EQ(found.at(i, j), expected.at(i, j));
        });
      }
    }
  }
}

}  // namespace
}  // namespace rlhi::test
