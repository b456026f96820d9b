// linear_logprob against log-softmax in double, and its gradients.
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::LinearLogprobArgs;
using ops::LinearLogprobBackwardArgs;
using ops::PackedWeight;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

struct Head {
  Head(int64_t rows, int64_t dim, int64_t vocab, DType type)
      : h(Matrix::random(rows, dim, type, 1)), w(Matrix::random(vocab, dim, type, 2, 0.5)), targets(static_cast<size_t>(rows)),
        dlogps(static_cast<size_t>(rows)) {
    for (size_t i = 0; i < targets.size(); ++i) {
      targets[i] = static_cast<int32_t>((i * 7919 + 3) % static_cast<size_t>(vocab));
      dlogps[i] = std::sin(static_cast<float>(i) + 0.5f);
    }
    targets[0] = static_cast<int32_t>(vocab - 1);
  }
  Matrix h, w;
  std::vector<int32_t> targets;
  std::vector<float> dlogps;
};

struct Reference {
  explicit Reference(const Head& head, bool gradients) {
    const int64_t rows = head.h.rows(), dim = head.h.cols(), vocab = head.w.rows();
    dh.assign(static_cast<size_t>(rows * dim), 0.0);
    dw.assign(static_cast<size_t>(vocab * dim), 0.0);
    dh_size = dh, dw_size = dw;
    std::vector<double> logits(static_cast<size_t>(vocab));
    for (int64_t i = 0; i < rows; ++i) {
      double maximum = -1e300, sum = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        double x = 0;
        for (int64_t d = 0; d < dim; ++d) x += head.h.at(i, d) * head.w.at(v, d);
        logits[static_cast<size_t>(v)] = x;
        maximum = std::max(maximum, x);
      }
      for (const double x : logits) sum += std::exp(x - maximum);
      const size_t target = static_cast<size_t>(head.targets[static_cast<size_t>(i)]);
      lse.push_back(maximum + std::log(sum));
      logps.push_back(logits[target] - lse.back());
      for (int64_t v = 0; gradients && v < vocab; ++v) {
        const double d = static_cast<double>(head.dlogps[static_cast<size_t>(i)]) *
                         ((static_cast<size_t>(v) == target ? 1.0 : 0.0) - std::exp(logits[static_cast<size_t>(v)] - lse.back()));
        for (int64_t j = 0; j < dim; ++j) {
          dh[static_cast<size_t>(i * dim + j)] += d * head.w.at(v, j);
          dw[static_cast<size_t>(v * dim + j)] += d * head.h.at(i, j);
          dh_size[static_cast<size_t>(i * dim + j)] += std::abs(d * head.w.at(v, j));
          dw_size[static_cast<size_t>(v * dim + j)] += std::abs(d * head.h.at(i, j));
        }
      }
    }
  }
  std::vector<double> logps, lse, dh, dw;
  std::vector<double> dh_size, dw_size;  // sums of the terms' sizes
};

struct Result {
  std::vector<float> logps, lse;
};

Result forward(const Table& ops, ops::Backend* backend, Head& head, bool packed, Matrix* keep) {
  Result r{std::vector<float>(head.targets.size()), std::vector<float>(head.targets.size())};
  LinearLogprobArgs a;
  a.h = head.h.tensor(), a.w = head.w.tensor(), a.targets = head.targets.data(), a.logps = r.logps.data(), a.lse = r.lse.data();
  if (keep) a.keep_logits = keep->tensor();
  PackedWeight weight;
  const size_t bytes = ops.packed_bytes(backend, head.w.dtype(), head.w.rows(), head.w.cols());
  if (packed && bytes > 0) {
    weight.data = ops.alloc(backend, bytes);
    ops.pack_weight(backend, &weight, head.w.tensor());
    a.packed_w = &weight;
    a.w = Tensor();
  }
  ops.linear_logprob(backend, a);
  if (packed && bytes > 0) ops.release(backend, weight.data, bytes);
  return r;
}

TEST("linear_logprob: log-probabilities to 1e-6, kept logits or not, packed or not, the same bits") {
  for (const DType type : {F, B}) {
    for (const int64_t dim : {1, 17, 64}) {
      for (const int64_t vocab : {1, 2, 50, 2047, 2048, 2049, 4500}) {
        for (const int64_t rows : {1, 19}) {
          Head head(rows, dim, vocab, type);
          const Reference reference(head, false);
          on_every_backend([&](const Table& ops, ops::Backend* backend) {
            const Result r = forward(ops, backend, head, false, nullptr);
            Matrix kept(rows, vocab, F, on_cpu() ? 3 : 0);  // a GPU's algorithm may depend on how rows are aligned
            const Result with_logits = forward(ops, backend, head, false, &kept), with_pack = forward(ops, backend, head, true, nullptr);
            EXPECT(r.logps == with_logits.logps && r.lse == with_logits.lse);
            EXPECT(r.logps == with_pack.logps && r.lse == with_pack.lse);
            kept.expect_gaps_untouched();
            for (size_t i = 0; i < r.logps.size(); ++i) {
              expect_close(static_cast<double>(r.logps[i]), reference.logps[i],
                           1e-6 * (2 + std::abs(reference.logps[i]) + std::abs(reference.lse[i])),
                           "logps", static_cast<int64_t>(i));
              expect_close(static_cast<double>(r.lse[i]), reference.lse[i], 1e-6 * (2 + std::abs(reference.lse[i])), "lse",
                           static_cast<int64_t>(i));
            }
          });
        }
      }
    }
  }
}

std::vector<std::pair<BackendChoice, DType>> backends_and_types() {
  std::vector<std::pair<BackendChoice, DType>> all;
  for (const BackendChoice& choice : every_backend()) all.insert(all.end(), {{choice, F}, {choice, B}});
  return all;
}

TEST("linear_logprob: a row has the same bits alone and among others, on any number of threads") {
  for (const auto& [choice, type] : backends_and_types()) {
    Head all(100, 48, 3000, type);
    OpsBackend& one = backend_of(choice, 1);
    const Result expected = forward(one.table(), one.handle(), all, false, nullptr);
    for (const int threads : {1, 2, 3, 5}) {
      for (const int64_t rows : {1, 2, 7, 33}) {
        Head some(rows, 48, 3000, type);
        const size_t offset = 100 - static_cast<size_t>(rows);
        for (int64_t i = 0; i < rows; ++i) {
          some.targets[static_cast<size_t>(i)] = all.targets[offset + static_cast<size_t>(i)];
          for (int64_t d = 0; d < 48; ++d) some.h.set(i, d, all.h.at(static_cast<int64_t>(offset) + i, d));
        }
        OpsBackend& backend = backend_of(choice, threads);
        const Result r = forward(backend.table(), backend.handle(), some, rows % 2 == 1, nullptr);
        for (size_t i = 0; i < r.logps.size(); ++i) EXPECT_EQ(r.logps[i], expected.logps[offset + i]);
      }
    }
  }
}

TEST("linear_logprob: the reference's gradient agrees with finite differences") {
  Head head(3, 4, 5, F);
  const Reference r(head, true);
  const auto loss = [&] {
    const Reference x(head, false);
    double sum = 0;
    for (size_t i = 0; i < x.logps.size(); ++i) sum += x.logps[i] * static_cast<double>(head.dlogps[i]);
    return sum;
  };
  const auto slope = [&](Matrix& m, int64_t i, int64_t j) {
    const double at = m.at(i, j);
    m.set(i, j, at + 1e-3);
    const double high = m.at(i, j), up = loss();
    m.set(i, j, at - 1e-3);
    const double low = m.at(i, j), down = loss();
    m.set(i, j, at);
    return (up - down) / (high - low);
  };
  for (int64_t i = 0; i < 12; ++i) EXPECT_NEAR(slope(head.h, i / 4, i % 4), r.dh[static_cast<size_t>(i)], 1e-6);
  for (int64_t i = 0; i < 20; ++i) EXPECT_NEAR(slope(head.w, i / 4, i % 4), r.dw[static_cast<size_t>(i)], 1e-6);
}

TEST("linear_logprob backward: from kept logits and recomputed, with and without dw") {
  for (const DType type : {F, B}) {
    for (const int64_t vocab : {1, 40, 2048, 2100}) {
      constexpr int64_t rows = 21, dim = 33;
      Head head(rows, dim, vocab, type);
      const Reference reference(head, true);
      on_every_backend([&](const Table& ops, ops::Backend* backend) {
        const double term = factor_rounding(ops, F, type);  // of the logits' gradient
        for (const bool keep : {false, true}) {
          for (const bool frozen : {false, true}) {
            Matrix logits(rows, vocab), dh(rows, dim, type), dw = Matrix::filled(vocab, dim, F, 0.25);
            Result r = forward(ops, backend, head, false, keep ? &logits : nullptr);
            LinearLogprobBackwardArgs a;
            a.forward.h = head.h.tensor(), a.forward.w = head.w.tensor(), a.forward.targets = head.targets.data();
            a.forward.logps = r.logps.data(), a.forward.lse = r.lse.data();
            if (keep) a.forward.keep_logits = logits.tensor();
            a.dlogps = head.dlogps.data();
            a.dh = dh.tensor();
            if (!frozen) a.dw = dw.tensor();
            ops.linear_logprob_backward(backend, a);
            for (int64_t i = 0; i < rows; ++i) {
              for (int64_t j = 0; j < dim; ++j) {
                const auto at = static_cast<size_t>(i * dim + j);
                const double e = reference.dh[at];
                expect_close(dh.at(i, j), e, 4e-6 + term * reference.dh_size[at] + rounding(type) * std::abs(e), "dh", i, j);
              }
            }
            for (int64_t v = 0; v < vocab; ++v) {
              for (int64_t j = 0; j < dim; ++j) {
                const auto at = static_cast<size_t>(v * dim + j);
                const double e = 0.25 + (frozen ? 0.0 : reference.dw[at]);
                expect_close(dw.at(v, j), e, 8e-6 + term * reference.dw_size[at], "dw", v, j);
              }
            }
            dh.expect_gaps_untouched();
            dw.expect_gaps_untouched();
          }
        }
      });
    }
  }
}

TEST("linear_logprob: a target outside the vocabulary is refused") {
  OpsBackend& backend = backend_of();
  Head head(2, 4, 10, F);
  head.targets[1] = 10;
  EXPECT_ERROR(forward(backend.table(), backend.handle(), head, false, nullptr), ErrorCode::invalid_argument, "target 10");
}

}  // namespace
}  // namespace rlhi::test
