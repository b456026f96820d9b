// Log-probabilities of target tokens and their gradients.
#include "test/op_table/op_table.h"
#include "test/packed.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;
constexpr DType F = DType::f32;

struct HeadShape {
  int64_t rows, dim, vocab;
  DType type;
  bool packed, keep;                   // backward: `packed` is a frozen head, without dw
};
std::string describe(const HeadShape& s, const char* packed) {
  return concat(s.rows, " x ", s.dim, ", vocabulary ", s.vocab, " ", type_name(s.type), s.packed ? packed : "",
                s.keep ? ", kept logits" : "");
}

class HeadInputs {
 public:
  explicit HeadInputs(const HeadShape& s)
      : h(Matrix::random(s.rows, s.dim, s.type, 1)), w(Matrix::random(s.vocab, s.dim, s.type, 2, 0.5)) {
    for (int64_t i = 0; i < s.rows; ++i) {
      targets.push_back(static_cast<int32_t>(i == 0 ? s.vocab - 1 : (i * 7919 + 3) % s.vocab));
      dlogps.push_back(std::sin(static_cast<float>(i) + 0.5f));
    }
    logps.resize(targets.size()), lse.resize(targets.size());
  }
  ops::LinearLogprobArgs args() {
    ops::LinearLogprobArgs a;
    a.h = h.tensor(), a.w = w.tensor(), a.targets = targets.data(), a.logps = logps.data(), a.lse = lse.data();
    return a;
  }
  Matrix h, w;
  std::vector<int32_t> targets;
  std::vector<float> dlogps, logps, lse;
};

// A GPU's algorithm may depend on how rows are aligned.
int64_t logits_gap() { return on_cpu() ? 3 : 0; }

class LogprobCase : public OpCase {
 public:
  explicit LogprobCase(const HeadShape& s) : s_(s), in_(s), kept_(s.keep ? s.rows : 0, s.vocab, F, logits_gap()) {}
  void prepare(const Table& ops, Backend* backend) override {
    if (s_.packed) pack_.emplace(ops, backend, in_.w.tensor());
  }
  void call(const Table& ops, Backend* backend) override {
    ops::LinearLogprobArgs a = in_.args();
    if (pack_ && pack_->is_packed()) a.packed_w = &pack_->weight(), a.w = Tensor();
    if (s_.keep) a.keep_logits = kept_.tensor();
    ops.linear_logprob(backend, a);
  }
  void check(const Table&, Backend*) override {
    if (expected_.logps.empty()) expected_ = reference::linear_logprob(Array(in_.h), Array(in_.w), in_.targets);
    for (size_t i = 0; i < expected_.logps.size(); ++i) {
      const double size = 2 + std::abs(expected_.lse[i]);
      expect_close(static_cast<double>(in_.lse[i]), expected_.lse[i], 1e-6 * size, "lse", static_cast<int64_t>(i));
      expect_close(static_cast<double>(in_.logps[i]), expected_.logps[i], 1e-6 * (size + std::abs(expected_.logps[i])), "logps",
                   static_cast<int64_t>(i));
    }
    kept_.expect_gaps_untouched();
    pack_.reset();
  }

 private:
  HeadShape s_;
  HeadInputs in_;
  Matrix kept_;
  std::optional<Packed> pack_;
  reference::Logprob expected_;
};

class LogprobBackwardCase : public OpCase {
 public:
  explicit LogprobBackwardCase(const HeadShape& s)
      : s_(s), in_(s), logits_(s.keep ? s.rows : 0, s.vocab, F, logits_gap()), dh_(s.rows, s.dim, s.type),
        dw_(Matrix::filled(s.vocab, s.dim, F, 0.25)) {}
  void prepare(const Table& ops, Backend* backend) override {
    dw_ = Matrix::filled(s_.vocab, s_.dim, F, 0.25);
    ops::LinearLogprobArgs a = in_.args();
    if (s_.keep) a.keep_logits = logits_.tensor();
    ops.linear_logprob(backend, a);
  }
  void call(const Table& ops, Backend* backend) override {
    ops::LinearLogprobBackwardArgs a;
    a.forward = in_.args();
    if (s_.keep) a.forward.keep_logits = logits_.tensor();
    a.dlogps = in_.dlogps.data();
    a.dh = dh_.tensor();
    if (!s_.packed) a.dw = dw_.tensor();
    ops.linear_logprob_backward(backend, a);
  }
  void check(const Table& ops, Backend*) override {
    if (d_.dh.rows == 0) d_ = reference::linear_logprob_backward(Array(in_.h), Array(in_.w), in_.targets, in_.dlogps);
    const double term = factor_rounding(ops, F, s_.type);      // of the logits' gradient
    Array dw(s_.vocab, s_.dim, 0.25);
    for (size_t i = 0; !s_.packed && i < dw.values.size(); ++i) dw.values[i] += d_.dw.values[i];
    expect_values("dh", dh_, d_.dh, [&](int64_t i, int64_t j) {
      return 4e-6 + term * d_.dh_sizes.at(i, j) + rounding(s_.type) * std::abs(d_.dh.at(i, j));
    });
    expect_values("dw", dw_, dw, [&](int64_t i, int64_t j) { return 8e-6 + term * d_.dw_sizes.at(i, j); });
  }

 private:
  HeadShape s_;
  HeadInputs in_;
  Matrix logits_, dh_, dw_;
  reference::LogprobGradients d_;
};

template <class Case>
std::vector<OpCaseMaker> head_cases(const char* packed) {
  std::vector<OpCaseMaker> all;
  const auto work = [](const Combination& c) { return static_cast<double>(c[0] * c[1] * c[2]); };
  // Panels and tiles of rows, a step of k, panels of columns, and the vocabulary's blocks of 2048.
  for (const Combination& c : pairwise({{1, 2, 13, 15, 17, 33, 65},
                                        around({16, 32}),
                                        {1, 2, 31, 33, 65, 2047, 2048, 2049, 4095, 4096, 4097},
                                        {0, 1},
                                        {0, 1},
                                        {0, 1}},
                                       work, 600'000)) {
    const HeadShape s{c[0], c[1], c[2], kTypes[c[3]], c[4] == 1, c[5] == 1};
    all.push_back(op_case<Case>(describe(s, packed), s));
  }
  return all;
}
template <class Case>
std::vector<OpCaseMaker> head_model(bool packed, const char* text) {
  std::vector<OpCaseMaker> all;
  for (const DType type : kTypes) {
    const HeadShape s{256, 576, 49152, type, packed, true};
    all.push_back(op_case<Case>(describe(s, text), s));
  }
  return all;
}
constexpr const char* kPacked = ", packed";
constexpr const char* kFrozen = ", frozen";

}  // namespace

std::vector<OpCaseMaker> OpCases::logprob_edges() { return head_cases<LogprobCase>(kPacked); }
std::vector<OpCaseMaker> OpCases::logprob_model() { return head_model<LogprobCase>(true, kPacked); }
std::vector<OpCaseMaker> OpCases::logprob_backward_edges() { return head_cases<LogprobBackwardCase>(kFrozen); }
std::vector<OpCaseMaker> OpCases::logprob_backward_model() { return head_model<LogprobBackwardCase>(false, kFrozen); }

void OpCases::logprob_gradient() {
  HeadInputs in(HeadShape{3, 4, 37, F, false, false});
  Array h(in.h), w(in.w);
  const auto loss = [&] {
    const reference::Logprob r = reference::linear_logprob(h, w, in.targets);
    double sum = 0;
    for (size_t i = 0; i < r.logps.size(); ++i) sum += r.logps[i] * static_cast<double>(in.dlogps[i]);
    return sum;
  };
  const Array dh = slopes(h, loss), dw = slopes(w, loss);
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found(3, 4), found_w(37, 4);
    ops::LinearLogprobBackwardArgs a;
    a.forward = in.args(), a.dlogps = in.dlogps.data();
    a.dh = found.tensor(), a.dw = found_w.tensor(), a.accumulate = false;
    ops.linear_logprob(backend, a.forward);
    ops.linear_logprob_backward(backend, a);
    expect_gradient("dh", found, dh, 2e-6);
    expect_gradient("dw", found_w, dw, 2e-6);
  });
}

}  // namespace rlhi::test
