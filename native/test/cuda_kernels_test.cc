// The CUDA kernels on this processor (ops/cuda/emulate): every operation against the CPU backend, and with threads and blocks in
// other orders, which must not change a bit. Attention has a test file of its own.
#include <algorithm>
#include <functional>
#include <numeric>

#include "ops/cuda/emulate/block.h"
#include "ops/cuda/kernels/rows.cuh"
#include "ops/cuda/launch.h"
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

namespace cuda = ops::cuda;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;
const cuda::Launch kAt;
constexpr int64_t kAligned = 8, kUnaligned = 3;  // elements between rows: 16-byte aligned rows, or not

// f() under several orders of blocks and threads; what it returns must have the same bits.
template <class F>
auto in_any_order(const F& f) {
  const auto first = f();
  for (const uint32_t seed : {1u, 2u}) {
    cuda::emulate::options.order_seed = seed;
    cuda::emulate::options.unfair = seed == 2;
    const bool same = f() == first;
    cuda::emulate::options = {};
    if (!same) throw std::runtime_error(concat("other bits with threads in order ", seed));
  }
  return first;
}

ops::CpuBackend& cpu_backend() {
  static ops::CpuBackend backend([] {
    ops::CpuBackendOptions options;
    options.isa = widening_isa();
    options.threads = 2;
    return options;
  }());
  return backend;
}
const Table& cpu() { return cpu_backend().table(); }
ops::Backend* cpu_handle() { return cpu_backend().handle(); }

void expect_matrix(const Matrix& found, const Matrix& expected, double tolerance, const char* what) {
  found.expect_gaps_untouched();
  for (int64_t i = 0; i < expected.rows(); ++i) {
    for (int64_t j = 0; j < expected.cols(); ++j) {
      expect_close(found.at(i, j), expected.at(i, j), tolerance * (1 + std::abs(expected.at(i, j))), what, i, j);
    }
  }
}

struct Shape {
  int64_t rows, cols;
};
// One element, odd widths, both sides of a group of four or eight, of a warp's and of a block's share.
const std::vector<Shape> kShapes{{1, 1}, {3, 5}, {2, 8}, {7, 33}, {33, 64}, {70, 24}, {5, 200}, {3, 1032}, {2, 2056}, {1, 4100}};

std::vector<char> bytes_of(const std::vector<Matrix>& all) {
  std::vector<char> out;
  for (const Matrix& m : all) {
    for (int64_t i = 0; i < m.rows(); ++i) {
      for (int64_t j = 0; j < m.cols(); ++j) {
        const double v = m.at(i, j);
        const auto* p = reinterpret_cast<const char*>(&v);
        out.insert(out.end(), p, p + sizeof v);
      }
    }
  }
  return out;
}

TEST("cuda kernels: division by a product is division") {
  constexpr int64_t kMost = (int64_t{1} << 62) - 1;
  for (const int64_t by : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{7}, int64_t{48}, int64_t{641}, int64_t{1024}, int64_t{1000003}, int64_t{1} << 31,
                           (int64_t{1} << 40) + 1, int64_t{6700417} * 641, kMost, kMost + 1}) {
    const cuda::Division division(by);
    for (const int64_t of : {int64_t{0}, by, 2 * (by / 2), 3 * (by / 3), kMost / by * by, kMost / by / 2 * by, kMost}) {
      for (int64_t n = std::max<int64_t>(0, of - 2); n <= std::min(kMost, of + 2); ++n) EXPECT_EQ(division.quotient(n), n / by);
    }
    const cuda::Place place = cuda::place_of(kMost, division);
    EXPECT(place.row == kMost / by && place.group == kMost % by);
  }
}

TEST("cuda kernels: rows are moved and converted as on the CPU") {
  for (const Shape s : kShapes) {
    for (const int64_t gap : {kAligned, kUnaligned}) {
      for (const DType to_type : {F, B}) {
        for (const DType from_type : {F, B}) {
          Matrix from = Matrix::random(s.rows, s.cols, from_type, 1, 1.0, gap);
          std::vector<int32_t> order(static_cast<size_t>(s.rows));
          for (int64_t i = 0; i < s.rows; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>((i * 5 + 2) % s.rows);
          const auto check_move = [&](const int32_t* to_index, const int32_t* from_index) {
            Matrix to = Matrix::random(s.rows, s.cols, to_type, 2, 1.0, gap), expected = to;
            if (to_index) cpu().scatter_rows(cpu_handle(), expected.tensor(), from.tensor(), to_index);
            else if (from_index) cpu().gather_rows(cpu_handle(), expected.tensor(), from.tensor(), from_index);
            else cpu().copy(cpu_handle(), expected.tensor(), from.tensor());
            cuda::move_rows(kAt, to.tensor(), to_index, from.tensor(), from_index, s.rows);
            EXPECT(to == expected);
          };
          check_move(nullptr, nullptr);
          check_move(nullptr, order.data());
          if (s.rows % 5 != 0) check_move(order.data(), nullptr);  // else two rows to one place
          Matrix to = Matrix::random(s.rows, s.cols, to_type, 3, 1.0, gap), expected = to;
          cpu().add(cpu_handle(), expected.tensor(), from.tensor());
          cuda::add(kAt, to.tensor(), from.tensor());
          EXPECT(to == expected);
        }
      }
    }
  }
}

TEST("cuda kernels: scatter_add_rows adds repeated rows in their order; column_sum") {
  for (const Shape s : kShapes) {
    for (const DType type : {F, B}) {
      for (const int64_t gap : {kAligned, kUnaligned}) {
        const int64_t rows = s.rows * 3;
        Matrix from = Matrix::random(rows, s.cols, type, 1, 1.0, gap);
        std::vector<int32_t> index(static_cast<size_t>(rows)), order(index.size());
        for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>(i * i % 7);
        std::iota(order.begin(), order.end(), 0);
        const auto row_of = [&](int32_t i) { return index[static_cast<size_t>(i)]; };
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row_of(a) < row_of(b); });
        std::vector<cuda::ScatterRun> runs;
        for (size_t i = 0; i < order.size(); ++i) {
          const int32_t row = row_of(order[i]);
          if (runs.empty() || runs.back().row != row) runs.push_back({row, static_cast<int32_t>(i), 0});
          ++runs.back().count;
        }
        const Matrix before = Matrix::random(7, s.cols, F, 2, 1.0, gap);
        Matrix expected = before, to = before;
        cpu().scatter_add_rows(cpu_handle(), expected.tensor(), from.tensor(), index.data());
        cuda::scatter_add_rows(kAt, to.tensor(), from.tensor(), runs.data(), static_cast<int64_t>(runs.size()), order.data());
        EXPECT(to == expected);

        Matrix sum = Matrix::filled(1, s.cols, F, 2.0), expected_sum = sum;
        cpu().column_sum(cpu_handle(), expected_sum.tensor(), from.tensor());
        std::vector<char> scratch(cuda::column_sum_scratch(rows, s.cols));
        cuda::column_sum(kAt, sum.tensor(), from.tensor(), scratch.data());
        expect_matrix(sum, expected_sum, 3e-6, "column_sum");
      }
    }
  }
}

TEST("cuda kernels: rms_norm forward and backward") {
  for (const Shape s : kShapes) {
    for (const int groups : {1, 3}) {
      for (const DType type : {F, B}) {
        for (const int64_t gap : {kAligned, kUnaligned}) {
          const int64_t cols = s.cols * groups;
          Matrix x = Matrix::random(s.rows, cols, type, 1, 1.0, gap), w = Matrix::random(1, s.cols, type, 2, 1.0, gap),
                 dy = Matrix::random(s.rows, cols, type, 3, 1.0, gap), residual = Matrix::random(s.rows, cols, F, 4, 1.0, gap);
          const float eps = 1e-5f;
          const double tolerance = type == F ? 4e-6 : 8e-3;
          Matrix y(s.rows, cols, type), rstd(s.rows, groups), kept(s.rows, cols, type), dx = residual;
          Matrix dw = Matrix::filled(1, s.cols, F, 1.0);
          cpu().rms_norm(cpu_handle(), y.tensor(), x.tensor(), w.tensor(), eps, groups, rstd.tensor(), kept.tensor());
          cpu().rms_norm_backward(cpu_handle(), dx.tensor(), dw.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, true);
          in_any_order([&] {
            Matrix y2(s.rows, cols, type, gap), rstd2(s.rows, groups), kept2(s.rows, cols, type, gap), in_place = x, over = dy;
            cuda::rms_norm(kAt, y2.tensor(), x.tensor(), w.tensor(), eps, groups, rstd2.tensor(), kept2.tensor());
            cuda::rms_norm(kAt, in_place.tensor(), in_place.tensor(), w.tensor(), eps, groups, Tensor(), Tensor());
            EXPECT(in_place == y2);
            expect_matrix(y2, y, tolerance, "y");
            expect_matrix(rstd2, rstd, 1e-6, "rstd");
            expect_matrix(kept2, x, 0, "copy of x");
            Matrix dw2 = Matrix::filled(1, s.cols, F, 1.0), dx2 = residual;
            std::vector<char> scratch(cuda::rms_norm_backward_scratch(s.rows, cols, groups));
            cuda::rms_norm_backward(kAt, dx2.tensor(), dw2.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, true,
                                    scratch.data());
            expect_matrix(dw2, dw, 2e-5, "dweight");
            double steep = 0;  // a group of one or two elements can have a tiny norm
            for (int64_t i = 0; i < s.rows; ++i) {
              for (int g = 0; g < groups; ++g) steep = std::max(steep, rstd.at(i, g));
            }
            expect_matrix(dx2, dx, 1e-6 * (1 + 10 * steep), "dx");
            cuda::rms_norm_backward(kAt, over.tensor(), Tensor(), over.tensor(), x.tensor(), w.tensor(), rstd.tensor(), groups, false,
                                    nullptr);
            over.expect_gaps_untouched();
            return bytes_of({y2, rstd2, dw2, dx2, over});
          });
        }
      }
    }
  }
}

TEST("cuda kernels: rms_norm from the f32 residual stream to bf16, keeping a bf16 copy") {
  for (const int64_t n : {8, 160, 576, 4100}) {
    Matrix x = Matrix::random(5, n, F, 1, 1.0, kAligned), w = Matrix::random(1, n, B, 2, 1.0, kAligned);
    for (const bool copies : {true, false}) {
      Matrix y(5, n, B, kAligned), kept = y, y2 = y, kept2 = y, rstd(5, 1), rstd2 = rstd;
      cpu().rms_norm(cpu_handle(), y.tensor(), x.tensor(), w.tensor(), 1e-5f, 1, rstd.tensor(), kept.tensor());
      cuda::rms_norm(kAt, y2.tensor(), x.tensor(), w.tensor(), 1e-5f, 1, rstd2.tensor(), copies ? kept2.tensor() : Tensor());
      expect_matrix(y2, y, 4e-3, "y");
      expect_matrix(rstd2, rstd, 1e-6, "rstd");
      if (copies) EXPECT(kept2 == kept);
    }
  }
}

TEST("cuda kernels: rms_norm of rows wider than registers hold") {
  Matrix x = Matrix::random(3, 9001, F, 1), w = Matrix::random(1, 9001, F, 2), dy = Matrix::random(3, 9001, F, 3);
  Matrix y(3, 9001), y2 = y, rstd(3, 1), rstd2 = rstd, dx(3, 9001), dx2 = dx, dw = Matrix::filled(1, 9001, F, 0.0), dw2 = dw;
  cpu().rms_norm(cpu_handle(), y.tensor(), x.tensor(), w.tensor(), 1e-6f, 1, rstd.tensor(), Tensor());
  cpu().rms_norm_backward(cpu_handle(), dx.tensor(), dw.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), 1, false);
  cuda::rms_norm(kAt, y2.tensor(), x.tensor(), w.tensor(), 1e-6f, 1, rstd2.tensor(), Tensor());
  std::vector<char> scratch(cuda::rms_norm_backward_scratch(3, 9001, 1));
  cuda::rms_norm_backward(kAt, dx2.tensor(), dw2.tensor(), dy.tensor(), x.tensor(), w.tensor(), rstd.tensor(), 1, false, scratch.data());
  expect_matrix(y2, y, 2e-6, "y");
  expect_matrix(dx2, dx, 2e-5, "dx");
  expect_matrix(dw2, dw, 2e-5, "dweight");
}

TEST("cuda kernels: rope and its backward") {
  for (const int head_dim : {2, 6, 8, 16, 34, 64, 128}) {
    for (const DType type : {F, B}) {
      for (const int64_t gap : {kAligned, kUnaligned}) {
        const Matrix x = Matrix::random(7, 3 * head_dim, type, 1, 1.0, gap);
        Matrix angles = Matrix::random(40, head_dim, F, 2, 1.0, gap);
        const std::vector<int32_t> positions{0, 39, 1, 1, 17, 5, 38};
        for (const int direction : {1, -1}) {
          Matrix expected = x, found = x;
          cpu().rope(cpu_handle(), expected.tensor(), head_dim, angles.tensor(), positions.data(), direction);
          cuda::rope(kAt, found.tensor(), head_dim, angles.tensor(), positions.data(), direction);
          expect_matrix(found, expected, rounding(type) * 2, "rope");
        }
      }
    }
  }
}

TEST("cuda kernels: swiglu and its backward, also in place") {
  for (const Shape s : kShapes) {
    for (const DType type : {F, B}) {
      for (const int64_t gap : {kAligned, kUnaligned}) {
        Matrix gate_up = Matrix::random(s.rows, 2 * s.cols, type, 1, 4.0, gap), dout = Matrix::random(s.rows, s.cols, type, 2, 1.0, gap);
        gate_up.set(0, 0, -120.0);
        Matrix out(s.rows, s.cols, type, gap), out2 = out, d(s.rows, 2 * s.cols, type, gap), in_place = gate_up;
        cpu().swiglu(cpu_handle(), out.tensor(), gate_up.tensor());
        cpu().swiglu_backward(cpu_handle(), d.tensor(), dout.tensor(), gate_up.tensor(), Tensor());
        cuda::swiglu(kAt, out2.tensor(), gate_up.tensor());
        Matrix again = dout;
        cuda::swiglu_backward(kAt, in_place.tensor(), again.tensor(), in_place.tensor(), again.tensor());
        EXPECT(again == out2);
        expect_matrix(out2, out, type == F ? 1e-6 : 8e-3, "swiglu");
        expect_matrix(in_place, d, type == F ? 1e-6 : 8e-3, "swiglu_backward");
      }
    }
  }
}

TEST("cuda kernels: the head's log-probabilities do not depend on how the vocabulary is cut, and agree with the CPU's") {
  for (const int64_t vocab : {int64_t{1}, int64_t{7}, int64_t{2048}, int64_t{2052}, int64_t{6201}}) {
    for (const int64_t gap : {kAligned, kUnaligned}) {
      constexpr int64_t rows = 5, hidden = 1;
      // h = 1, so that the logits are the weights' rows times h
      Matrix h = Matrix::random(rows, hidden, F, 1), w = Matrix::random(vocab, hidden, F, 2, 3.0), logits(rows, vocab, F, gap);
      for (int64_t i = 0; i < rows; ++i) {
        const auto x = static_cast<float>(h.at(i, 0));
        for (int64_t j = 0; j < vocab; ++j) logits.set(i, j, static_cast<double>(x * static_cast<float>(w.at(j, 0))));
      }
      const auto last = static_cast<int32_t>(vocab - 1);
      const std::vector<int32_t> targets{0, last, last / 2, last / 3, 0};
      std::vector<float> logps(rows), lse(rows), expected(rows), expected_lse(rows);
      ops::LinearLogprobArgs a;
      a.h = h.tensor(), a.w = w.tensor(), a.targets = targets.data(), a.logps = expected.data(), a.lse = expected_lse.data();
      cpu().linear_logprob(cpu_handle(), a);
      const auto in_pieces = [&](int64_t width) {
        std::vector<cuda::HeadStatistics> statistics(rows);
        for (int64_t first = 0; first < vocab; first += width) {
          const Tensor piece = logits.tensor().col_range(first, std::min(width, vocab - first));
          cuda::logprob_statistics(kAt, piece, first, targets.data(), statistics.data());
        }
        cuda::logprob_finish(kAt, statistics.data(), rows, logps.data(), lse.data());
        std::vector<float> both = logps;
        both.insert(both.end(), lse.begin(), lse.end());
        return both;
      };
      const std::vector<float> whole = in_any_order([&] { return in_pieces(vocab); });
      EXPECT(in_pieces(cuda::kVocabBlock) == whole);
      EXPECT(in_pieces(2 * cuda::kVocabBlock) == whole);
      for (size_t i = 0; i < rows; ++i) {
        EXPECT_NEAR(logps[i], expected[i], 2e-6 * (1 + std::abs(expected[i])));
        EXPECT_NEAR(lse[i], expected_lse[i], 2e-6 * (1 + std::abs(expected_lse[i])));
      }

      const std::vector<float> dlogps{1.0f, -0.5f, 0.25f, 0.0f, 2.0f};
      Matrix in_place = logits, narrow(rows, vocab, B, gap), over = logits;
      Tensor over_bf16(over.tensor().data, B, rows, vocab, 2 * over.tensor().row_stride);
      for (int64_t first = 0; first < vocab; first += 2 * cuda::kVocabBlock) {
        const Tensor piece = in_place.tensor().col_range(first, std::min(2 * cuda::kVocabBlock, vocab - first));
        cuda::logprob_gradient(kAt, narrow.tensor().col_range(first, piece.cols), piece, first, targets.data(), lse.data(), dlogps.data());
        cuda::logprob_gradient(kAt, piece, piece, first, targets.data(), lse.data(), dlogps.data());
      }
      in_any_order([&] {
        over = logits;
        over_bf16.data = over.tensor().data;
        cuda::logprob_gradient(kAt, over_bf16, over.tensor(), 0, targets.data(), lse.data(), dlogps.data());
        std::vector<uint16_t> bits;
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < vocab; ++j) {
            bits.push_back(static_cast<const uint16_t*>(over_bf16.data)[i * over_bf16.row_stride + j]);
            EXPECT_EQ(bits.back(), to_bf16(static_cast<float>(narrow.at(i, j))).bits);
          }
        }
        return bits;
      });
      for (int64_t i = 0; i < rows; ++i) {
        const auto at = static_cast<size_t>(i);
        for (int64_t j = 0; j < vocab; ++j) {
          const double p = std::exp(logits.at(i, j) - static_cast<double>(lse[at]));
          const double d = static_cast<double>(dlogps[at]) * ((targets[at] == j ? 1.0 : 0.0) - p);
          expect_close(in_place.at(i, j), d, 3e-6, "dlogits", i, j);
          expect_close(narrow.at(i, j), d, 3e-6 + 4e-3 * std::abs(d), "dlogits in bf16", i, j);
        }
      }
      in_place.expect_gaps_untouched();
      narrow.expect_gaps_untouched();
    }
  }
}

TEST("cuda kernels: AdamW has the bits of the CPU's fused kernels, split master included") {
  if (ops::available_isas().size() < 2) skip("this machine has no fused multiply-add to compare with");
  for (const int64_t n : {int64_t{1}, int64_t{3}, int64_t{4}, int64_t{1027}, int64_t{5000}}) {
    for (const int64_t offset : {0, 1}) {  // 16-byte aligned, or not
      std::mt19937 random(7);
      std::normal_distribution<float> normal(0.0f, 1.0f);
      const auto size = static_cast<size_t>(n + offset);
      std::vector<float> weight(size), grad(size), m(size), v(size);
      std::vector<bf16> high(size);
      std::vector<int16_t> low(size);
      for (size_t i = 0; i < size; ++i) {
        weight[i] = normal(random), grad[i] = normal(random), m[i] = normal(random) * 0.1f, v[i] = std::abs(normal(random)) * 0.01f;
        split_master(weight[i], high[i], low[i]);
      }
      auto weight2 = weight, m2 = m, v2 = v, m3 = m, v3 = v;
      auto high2 = high;
      auto low2 = low;
      const float scale = 0.7f;
      ops::AdamWArgs a;
      a.n = n, a.grad = grad.data() + offset, a.grad_scale = &scale, a.lr = 1e-4, a.weight_decay = 0.1;
      a.bias_correction1 = 0.3, a.bias_correction2 = 0.2;
      const auto step = [&](const std::function<void(const ops::AdamWArgs&)>& adamw, DType type, void* w, int16_t* r,
                            std::vector<float>& first, std::vector<float>& second) {
        a.dtype = type, a.weight = static_cast<char*>(w) + offset * dtype_size(type), a.remainder = r ? r + offset : nullptr;
        a.m = first.data() + offset, a.v = second.data() + offset;
        adamw(a);
      };
      const auto on_cpu = [](const ops::AdamWArgs& args) { cpu().adamw(cpu_handle(), args); };
      const auto on_cuda = [](const ops::AdamWArgs& args) { cuda::adamw(kAt, args); };
      step(on_cpu, F, weight.data(), nullptr, m, v);
      step(on_cuda, F, weight2.data(), nullptr, m2, v2);
      EXPECT(weight == weight2);
      EXPECT(m == m2);
      EXPECT(v == v2);
      std::vector<uint8_t> codes[4];
      std::vector<float> scales[4];
      for (int i = 0; i < 4; ++i) codes[i].resize(size), scales[i].resize(size / ops::kMomentBlock + 1);
      a.moments = ops::Moments::coded;
      for (int taken = 1; taken <= 3; ++taken) {
        a.rounding_seed = static_cast<uint32_t>(taken);
        for (const int at : {0, 2}) {
          a.dtype = F, a.weight = (at == 0 ? weight : weight2).data() + offset, a.remainder = nullptr;
          a.m = codes[at].data() + offset, a.v = codes[at + 1].data() + offset, a.m_scales = scales[at].data(), a.v_scales = scales[at + 1].data();
          if (at == 0) on_cpu(a);
          else on_cuda(a);
        }
        EXPECT(weight == weight2);
        for (const int at : {0, 1}) EXPECT(codes[at] == codes[at + 2] && scales[at] == scales[at + 2]);
      }
      a.moments = ops::Moments::f32;
      m2 = m3, v2 = v3;
      step(on_cpu, B, high.data(), low.data(), m2, v2);
      step(on_cuda, B, high2.data(), low2.data(), m3, v3);
      EXPECT(std::memcmp(high.data(), high2.data(), high.size() * sizeof(bf16)) == 0);
      EXPECT(low == low2);
      EXPECT(m2 == m3);
    }
  }
}

TEST("cuda kernels: sums of squares in any order of threads") {
  for (const int64_t n : {int64_t{1}, int64_t{5}, int64_t{1023}, int64_t{65537}, int64_t{200001}}) {
    for (const int64_t offset : {0, 1}) {
      std::vector<float> x(static_cast<size_t>(n + offset));
      for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
      std::vector<char> scratch(cuda::sum_of_squares_scratch(n));
      const double found = in_any_order([&] {
        double result = -1;
        cuda::sum_of_squares(kAt, x.data() + offset, F, n, scratch.data(), &result);
        return result;
      });
      double expected = 0;
      cpu().sum_of_squares(cpu_handle(), Tensor(x.data() + offset, F, 1, n), &expected);
      EXPECT_NEAR(found, expected, 1e-11 * found);
    }
  }
  double zero = -1;
  cuda::sum_of_squares(kAt, nullptr, F, 0, nullptr, &zero);
  EXPECT_EQ(zero, 0.0);
}

TEST("cuda kernels: a token is chosen in any order of threads, also of more equal logits than shared memory lists") {
  for (const int64_t vocab : {900, 2051, 5000}) {
    Matrix logits = Matrix::random(1, vocab, F, 3, 2.0, 4);
    for (int64_t j = 0; j < vocab; ++j)
      if (j % 2 == 0 && vocab == 5000) logits.set(0, j, 1.5);
    const std::vector<ops::TokenChoice> choices = {{0, 0, 0}, {0, 0, 1, 1, 0, 0.7}, {0, 40, 1, 0.9, 0, 0.3}, {0, 1200, 0.8, 0.6, 0.01, 0.9}};
    std::vector<ops::ChosenToken> expected(choices.size());
    cpu().choose_tokens(cpu_handle(), logits.tensor(), choices.data(), static_cast<int64_t>(choices.size()), expected.data());
    const std::vector<int32_t> ids = in_any_order([&] {
      std::vector<cuda::RowChoice> found(choices.size());
      cuda::choose_tokens(kAt, logits.tensor(), choices.data(), static_cast<int64_t>(choices.size()), found.data());
      std::vector<int32_t> chosen;
      for (const cuda::RowChoice& c : found) chosen.push_back(c.id);
      return chosen;
    });
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], expected[i].id);
  }
}

TEST("cuda kernels: products of few rows, in both forms of products") {
  const auto check = [](int64_t m, int64_t n, int64_t k, DType c_dtype, int multiprocessors, bool gates) {
    Matrix x = Matrix::random(m, k, B, 1, 1.0, kAligned), w = Matrix::random(gates ? 2 * n : n, k, B, 2, 1.0, kAligned), y(m, n, c_dtype, kAligned);
    cuda::Launch at;
    at.multiprocessors = multiprocessors;
    ops::GemmArgs g;
    g.a = x.tensor(), g.b = w.tensor(), g.c = y.tensor(), g.swiglu_c = gates;
    EXPECT(cuda::takes_few_rows(g));
    for (const bool group_products : {false, true}) {
      in_any_order([&] {
        cuda::emulate::options.group_products = group_products;
        cuda::few_rows_product(at, g);
        cuda::emulate::options.group_products = false;
        return bytes_of({y});
      });
      y.expect_gaps_untouched();
      const auto sum = [&](int64_t i, int64_t feature) {
        double s = 0;
        for (int64_t t = 0; t < k; ++t) s += x.at(i, t) * w.at(feature, t);
        return s;
      };
      const auto rounded = [&](double v) { return c_dtype == B ? static_cast<double>(to_float(to_bf16(static_cast<float>(v)))) : v; };
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double expected = sum(i, j);
          if (gates) expected = rounded(expected), expected = expected / (1 + std::exp(-expected)) * rounded(sum(i, n + j));
          expect_close(y.at(i, j), expected, (1e-4 + 2 * rounding(c_dtype)) * (1 + std::abs(expected)), "y", i, j);
        }
      }
    }
  };
  for (const DType dtype : {F, B}) {
    check(1, 4, 64, dtype, 132, false);
    check(5, 192, 1088, dtype, 132, false);     // more chunks than places
    check(32, 132, 128, dtype, 132, false);
    check(33, 100, 192, dtype, 132, false);
    check(64, 256, 128, dtype, 1, false);       // two warpgroups
    check(40, 192, 64, dtype, 1, false);        // the second has half of a last block
    check(30, 260, 448, dtype, 3, false);       // shallow rings
    check(128, 68, 640, dtype, 132, false);
    check(100, 260, 64, dtype, 1, false);
    check(3, 4, 64, dtype, 132, true);
    check(64, 100, 1152, dtype, 132, true);
    check(128, 64, 128, dtype, 132, true);
  }
}

}  // namespace
}  // namespace rlhi::test
