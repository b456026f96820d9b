// Attention over trees and caches against softmax in double; gradients against a reference that finite differences confirm;
// and the bits of a row, which must not depend on its neighbours.
#include <limits>

#include "ops/cpu/backend.h"
#include "test/attention_layout.h"
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::AttentionArgs;
using ops::AttentionBackwardArgs;
using ops::KeySpan;
using ops::QuerySegment;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

// Elements between rows: bf16 rows begin at multiples of 16 bytes, as the engine's do and as a GPU's tensor cores want them.
int64_t gap_of(DType type) { return type == B ? 8 : 3; }

struct Inputs {
  Inputs(const Layout& t, Heads h, DType type)
      : q(make(t.rows, h.n * h.dim, type, 1)), k(make(t.key_rows, h.kv * h.dim, type, 2)), v(make(t.key_rows, h.kv * h.dim, type, 3)),
        dout(make(t.rows, h.n * h.dim, type, 4)) {}
  Matrix q, k, v, dout;

 private:
  static Matrix make(int64_t rows, int64_t cols, DType type, uint32_t seed) { return Matrix::random(rows, cols, type, seed, 1.0, gap_of(type)); }
};

struct Outputs {
  Outputs(const Layout& t, Heads h, DType type)
      : out(t.rows, h.n * h.dim, type, gap_of(type)), lse(t.rows, h.n), dq(t.rows, h.n * h.dim, type, gap_of(type)),
        dk(t.key_rows, h.kv * h.dim, type, gap_of(type)), dv(t.key_rows, h.kv * h.dim, type, gap_of(type)) {}
  void expect_gaps_untouched() const {
    for (const Matrix* m : {&out, &lse, &dq, &dk, &dv}) m->expect_gaps_untouched();
  }
  Matrix out, lse, dq, dk, dv;
};

AttentionArgs args_of(const Layout& t, Heads h, int window, Inputs& in, Outputs& o) {
  AttentionArgs a;
  a.n_heads = h.n, a.n_kv_heads = h.kv, a.head_dim = h.dim, a.window = window;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h.dim)));
  a.q = in.q.tensor(), a.k = in.k.tensor(), a.v = in.v.tensor(), a.out = o.out.tensor(), a.lse = o.lse.tensor();
  a.segments = t.segments.data(), a.n_segments = static_cast<int64_t>(t.segments.size());
  a.spans = t.spans.data(), a.n_spans = static_cast<int64_t>(t.spans.size());
  return a;
}

Outputs run(const Table& ops, ops::Backend* backend, const Layout& t, Heads h, int window, Inputs& in, bool backward) {
  Outputs o(t, h, in.q.dtype());
  AttentionBackwardArgs b;
  b.forward = args_of(t, h, window, in, o);
  ops.attention(backend, b.forward);
  if (backward) {
    b.dout = in.dout.tensor(), b.dq = o.dq.tensor(), b.dk = o.dk.tensor(), b.dv = o.dv.tensor();
    ops.attention_backward(backend, b);
  }
  o.expect_gaps_untouched();
  return o;
}

// Softmax attention in double, and its gradients for the loss sum(dout out).
class Reference {
 public:
  Reference(const Layout& t, Heads h, int window, const Inputs& in, bool backward) : t_(t), h_(h), window_(window), in_(in) {
    out.assign(static_cast<size_t>(t.rows) * static_cast<size_t>(h.n * h.dim), 0.0);
    lse.assign(static_cast<size_t>(t.rows) * static_cast<size_t>(h.n), -std::numeric_limits<double>::infinity());
    dq.assign(out.size(), 0.0);
    dk.assign(static_cast<size_t>(t.key_rows) * static_cast<size_t>(h.kv * h.dim), 0.0);
    dv = dk;
    for (const QuerySegment& s : t.segments) {
      for (int i = 0; i < s.length; ++i) {
        for (int head = 0; head < h.n; ++head) one_query(s, i, head, backward);
      }
    }
  }
  double loss() const {
    double sum = 0;
    const int64_t n = h_.n * h_.dim;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * in_.dout.at(static_cast<int64_t>(i) / n, static_cast<int64_t>(i) % n);
    return sum;
  }
  std::vector<double> out, lse, dq, dk, dv;

 private:
  void one_query(const QuerySegment& s, int i, int head, bool backward) {
    const int64_t row = s.row + i, at = static_cast<int64_t>(head) * h_.dim, kv = static_cast<int64_t>(head / (h_.n / h_.kv)) * h_.dim;
    const double scale = 1 / std::sqrt(static_cast<double>(h_.dim));
    const int64_t position = s.position + i;
    std::vector<std::pair<int64_t, double>> seen;  // key row, score
    double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int j = 0; j < s.n_spans; ++j) {
      const KeySpan& span = t_.spans[static_cast<size_t>(s.first_span + j)];
      for (int64_t u = 0; u < span.length; ++u) {
        const int64_t p = span.position + u;
        if (p > position || (window_ > 0 && p <= position - window_)) continue;
        double score = 0;
        for (int d = 0; d < h_.dim; ++d) score += in_.q.at(row, at + d) * in_.k.at(span.row + u, kv + d);
        seen.emplace_back(span.row + u, score * scale);
        maximum = std::max(maximum, score * scale);
      }
    }
    for (const auto& [key, score] : seen) sum += std::exp(score - maximum);
    const size_t base = static_cast<size_t>(row * h_.n * h_.dim + at);
    for (const auto& [key, score] : seen) {
      for (int d = 0; d < h_.dim; ++d) out[base + static_cast<size_t>(d)] += std::exp(score - maximum) / sum * in_.v.at(key, kv + d);
    }
    if (!seen.empty()) lse[static_cast<size_t>(row * h_.n + head)] = maximum + std::log(sum);
    if (!backward) return;
    double delta = 0;
    for (int d = 0; d < h_.dim; ++d) delta += in_.dout.at(row, at + d) * out[base + static_cast<size_t>(d)];
    for (const auto& [key, score] : seen) {
      const double p = std::exp(score - maximum) / sum;
      double dp = 0;
      for (int d = 0; d < h_.dim; ++d) dp += in_.dout.at(row, at + d) * in_.v.at(key, kv + d);
      const double ds = p * (dp - delta) * scale;
      for (int d = 0; d < h_.dim; ++d) {
        const size_t k = static_cast<size_t>(key * h_.kv * h_.dim + kv + d);
        dv[k] += p * in_.dout.at(row, at + d);
        dk[k] += ds * in_.q.at(row, at + d);
        dq[base + static_cast<size_t>(d)] += ds * in_.k.at(key, kv + d);
      }
    }
  }

  const Layout& t_;
  Heads h_;
  int window_;
  const Inputs& in_;
};

void expect_all_close(const Matrix& found, const std::vector<double>& expected, double tolerance, const char* what) {
  for (int64_t i = 0; i < found.rows(); ++i) {
    for (int64_t j = 0; j < found.cols(); ++j) {
      const double e = expected[static_cast<size_t>(i * found.cols() + j)];
      expect_close(found.at(i, j), e, tolerance * (1 + std::abs(e)), what, i, j);
    }
  }
}

// Where products are made of bf16, probabilities are rounded too.
double output_tolerance(const Table& ops, DType type) { return type == F ? 3e-6 : multiplies_halves(ops) ? 1.8e-2 : 1e-2; }

void check_layout(const Layout& t, Heads h, int window, DType type, bool backward) {
  Inputs in(t, h, type);
  const Reference r(t, h, window, in, backward);
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    const double tolerance = output_tolerance(ops, type);
    const Outputs o = run(ops, backend, t, h, window, in, backward);
    expect_all_close(o.out, r.out, tolerance, "out");
    for (int64_t i = 0; i < o.lse.rows(); ++i) {
      for (int64_t j = 0; j < o.lse.cols(); ++j) expect_close(o.lse.at(i, j), r.lse[static_cast<size_t>(i * h.n + j)], 4e-6, "lse", i, j);
    }
    if (!backward) return;
    const double steep = type == F ? 2e-5 : multiplies_halves(ops) ? 0.1 : 0.06;  // sums over queries of rounded terms
    expect_all_close(o.dq, r.dq, steep, "dq");
    expect_all_close(o.dk, r.dk, steep, "dk");
    expect_all_close(o.dv, r.dv, steep, "dv");
  });
}

TEST("attention: the reference's gradients agree with finite differences") {
  Layout t = pair_of(3, 2, 4);
  const Heads h{4, 2, 3};
  Inputs in(t, h, F);
  const Reference r(t, h, 4, in, true);
  const auto slope = [&](Matrix& m, int64_t i, int64_t j) {
    const double at = m.at(i, j);
    m.set(i, j, at + 1e-3);
    const double high = m.at(i, j), up = Reference(t, h, 4, in, false).loss();
    m.set(i, j, at - 1e-3);
    const double low = m.at(i, j), down = Reference(t, h, 4, in, false).loss();
    m.set(i, j, at);
    return (up - down) / (high - low);
  };
  for (int64_t i = 0; i < t.rows; ++i) {
    for (int64_t j = 0; j < h.n * h.dim; ++j) EXPECT_NEAR(slope(in.q, i, j), r.dq[static_cast<size_t>(i * h.n * h.dim + j)], 2e-6);
    for (int64_t j = 0; j < h.kv * h.dim; ++j) {
      EXPECT_NEAR(slope(in.k, i, j), r.dk[static_cast<size_t>(i * h.kv * h.dim + j)], 2e-6);
      EXPECT_NEAR(slope(in.v, i, j), r.dv[static_cast<size_t>(i * h.kv * h.dim + j)], 2e-6);
    }
  }
}

TEST("attention: pairs of many lengths, head shapes and windows, forward and backward") {
  for (const Heads h : {Heads{1, 1, 1}, Heads{4, 2, 3}, Heads{6, 2, 20}, Heads{9, 3, 64}, Heads{7, 1, 5}, Heads{2, 2, 33}}) {
    for (const int window : {0, 1, 7, 70}) {
      check_layout(pair_of(1, 1, 1), h, window, F, true);
      check_layout(pair_of(5, 3, 9), h, window, F, true);
      check_layout(pair_of(64, 1, 65), h, window, F, true);
    }
    check_layout(pair_of(130, 63, 70), h, 0, F, true);
    check_layout(pair_of(70, 40, 5), h, 0, B, true);
    check_layout(pair_of(20, 40, 5), h, 9, B, true);
  }
  for (const DType type : {F, B}) check_layout(pair_of(200, 30, 90), {2, 1, 128}, 0, type, true);
  check_layout(pair_of(70, 30, 90), {2, 2, 96}, 0, B, true);
  check_layout(pair_of(40, 30, 90), {4, 2, 80}, 50, B, true);
}

TEST("attention: several ancestors, several trees, in any order of rows") {
  Layout t;
  const int a = t.add(30), b = t.add(20, a);
  t.add(7, b);
  t.add(66, b);
  t.add(3, a);
  const int c = t.add(11);
  t.add(1, c), t.add(2, c), t.add(3, c);
  for (const int window : {0, 25}) {
    check_layout(t, {4, 2, 16}, window, F, true);
    check_layout(t, {4, 2, 16}, window, B, true);
  }
}

TEST("attention: decoding from a cache whose spans lie in any order, with gaps") {
  Layout t;
  t.key_rows = 400;
  t.spans = {{200, 90, 0}, {10, 70, 90}, {390, 1, 160},   // one sequence in three pieces
             {200, 90, 0}, {100, 5, 90},                  // another on the same prompt
             {0, 1, 0},                                   // a first token
             {300, 64, 0}, {364, 3, 64}};                 // four new tokens at once, the last three of them its own
  t.segments = {{3, 1, 160, 0, 3}, {0, 1, 94, 3, 2}, {1, 1, 0, 5, 1}, {4, 4, 63, 6, 2}};
  t.rows = 9;                                             // row 2 and row 8 belong to nobody
  for (const Heads h : {Heads{9, 3, 64}, Heads{8, 1, 20}, Heads{2, 2, 128}}) {
    for (const int window : {0, 64, 3}) {
      for (const DType type : {F, B}) {
        Inputs in(t, h, type);
        const Reference r(t, h, window, in, false);
        on_every_backend([&](const Table& ops, ops::Backend* backend) {
          Outputs o(t, h, type);
          const Matrix before = o.out;
          ops.attention(backend, args_of(t, h, window, in, o));
          for (const QuerySegment& s : t.segments) {
            for (int64_t i = s.row; i < s.row + s.length; ++i) {
              for (int64_t j = 0; j < h.n * h.dim; ++j) {
                const double e = r.out[static_cast<size_t>(i * h.n * h.dim + j)];
                expect_close(o.out.at(i, j), e, output_tolerance(ops, type) * (1 + std::abs(e)), "out", i, j);
              }
            }
          }
          for (const int64_t i : {2, 8}) EXPECT(o.out.same_row(i, before, i));
          o.expect_gaps_untouched();
        });
      }
    }
  }
}

TEST("attention: a query that sees no key gives zeros") {
  Layout t;
  t.key_rows = 4, t.rows = 1;
  t.spans = {{0, 4, 0}};
  t.segments = {{0, 1, 50, 0, 1}};
  const Heads h{2, 1, 8};
  Inputs in(t, h, F);
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    const Outputs o = run(ops, backend, t, h, 10, in, false);
    for (int64_t j = 0; j < 16; ++j) EXPECT_EQ(o.out.at(0, j), 0.0);
    EXPECT_EQ(o.lse.at(0, 0), -std::numeric_limits<double>::infinity());
  });
}

TEST("attention: large scores neither overflow nor lose the largest") {
  Layout t = pair_of(40, 30, 20);
  const Heads h{2, 1, 16};
  Inputs in(t, h, F);
  in.q = Matrix::random(t.rows, 32, F, 1, 60.0);
  in.k = Matrix::random(t.rows, 16, F, 2, 60.0);
  const Reference r(t, h, 0, in, false);
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    const Outputs o = run(ops, backend, t, h, 0, in, false);
    expect_all_close(o.out, r.out, 2e-2, "out");  // scores near 1e4: f32 holds them to 1e-3
  });
}

TEST("attention: the gradients of a query's scores sum to zero but for the rounding of one of them") {
  constexpr int kKeys = 32, kBlocks = 3, kColumns = 32, kStride = ops::kScoreStride;
  const Matrix score = Matrix::random(kKeys * kBlocks, kColumns, F, 7, 4.0), dprobability = Matrix::random(kKeys * kBlocks, kColumns, F, 8);
  for (const ops::CpuIsa isa : ops::available_isas()) {
    std::vector<float> scores(kKeys * kStride), dscores(kKeys * kStride), position(kColumns), lse(kColumns), delta(kColumns);
    std::vector<double> imbalance(kColumns, 0.0), sum(kColumns, 0.0), own(kColumns, 0.0);
    ops::AttentionBlock b;
    b.scores = scores.data(), b.dscores = dscores.data(), b.keys = kKeys, b.columns = kColumns, b.masked = true;
    b.position = position.data(), b.lse = lse.data(), b.delta = delta.data(), b.imbalance = imbalance.data();
    for (int c = 0; c < kColumns; ++c) {
      const int newest = 40 + c;                  // column c sees keys 0 to 40 + c
      double total = 0, mean = 0;
      for (int i = 0; i <= newest; ++i) total += std::exp(score.at(i, c));
      for (int i = 0; i <= newest; ++i) mean += std::exp(score.at(i, c)) / total * dprobability.at(i, c);
      position[static_cast<size_t>(c)] = static_cast<float>(newest);
      lse[static_cast<size_t>(c)] = static_cast<float>(std::log(total)), delta[static_cast<size_t>(c)] = static_cast<float>(mean);
    }
    for (int block = 0; block < kBlocks; ++block) {
      for (int i = 0; i < kKeys * kColumns; ++i) {
        const int key = i / kColumns, c = i % kColumns;
        scores[static_cast<size_t>(key * kStride + c)] = static_cast<float>(score.at(block * kKeys + key, c));
        dscores[static_cast<size_t>(key * kStride + c)] = static_cast<float>(dprobability.at(block * kKeys + key, c));
      }
      b.first_position = static_cast<float>(block * kKeys);
      ops::kernels_of(isa).attention_softmax_backward(b);
      for (int i = 0; i < kKeys * kColumns; ++i) {
        const int key = i / kColumns;
        const size_t c = static_cast<size_t>(i % kColumns);
        const double ds = dscores[static_cast<size_t>(key * kStride) + c];
        sum[c] += ds;
        if (block * kKeys + key == 40 + static_cast<int>(c)) own[c] = ds;
      }
    }
    for (size_t c = 0; c < kColumns; ++c) EXPECT(std::abs(sum[c]) <= 0x1p-24 * std::abs(own[c]) && own[c] != 0);
  }
}

// Rows of `inner`, which lie at `offset` in the rows of `outer`, are the same bits.
void expect_same_rows(const Matrix& outer, const Matrix& inner, int64_t offset) {
  for (int64_t i = 0; i < inner.rows(); ++i) EXPECT(outer.same_row(offset + i, inner, i));
}

void copy_rows(Matrix& to, const Matrix& from, int64_t offset) {
  for (int64_t i = 0; i < to.rows(); ++i) {
    for (int64_t j = 0; j < to.cols(); ++j) to.set(i, j, from.at(offset + i, j));
  }
}

TEST("attention: a tree has the same bits alone and packed with others, on any number of threads") {
  for (const DType type : {F, B}) {
    for (const int window : {0, 40}) {
      const Heads h{6, 2, 24};
      Layout both;
      const int p = both.add(90);
      both.add(50, p), both.add(77, p);
      const int offset = both.rows, second = both.add(61);
      both.add(20, second), both.add(130, second);
      const Layout alone = pair_of(61, 20, 130);
      Inputs in(both, h, type), in_alone(alone, h, type);
      copy_rows(in_alone.q, in.q, offset), copy_rows(in_alone.k, in.k, offset);
      copy_rows(in_alone.v, in.v, offset), copy_rows(in_alone.dout, in.dout, offset);
      for (const BackendChoice& choice : every_backend()) {
        for (const int threads : {1, 2, 3, 12}) {  // beyond the trees' heads, tiles are tasks that wait for each other
          OpsBackend& one = backend_of(choice, 1);
          OpsBackend& many = backend_of(choice, threads);
          const Outputs a = run(one.table(), one.handle(), alone, h, window, in_alone, true);
          const Outputs b = run(many.table(), many.handle(), both, h, window, in, true);
          expect_same_rows(b.out, a.out, offset);
          expect_same_rows(b.lse, a.lse, offset);
          expect_same_rows(b.dq, a.dq, offset);
          expect_same_rows(b.dk, a.dk, offset);
          expect_same_rows(b.dv, a.dv, offset);
        }
      }
    }
  }
}

void check_one_token_at_a_time(Heads h, DType type) {
  for (const int window : {0, 40}) {
    const Layout whole = pair_of(70, 90, 1);
    Inputs in(whole, h, type);
    Layout steps;                                   // row 70 + i sees the prompt and the answer up to itself
    steps.rows = whole.rows, steps.key_rows = whole.key_rows;
    for (int32_t i = 0; i < 90; ++i) {
      steps.segments.push_back({70 + i, 1, 70 + i, static_cast<int32_t>(steps.spans.size()), 2});
      steps.spans.push_back({0, 70, 0});
      steps.spans.push_back({70, i + 1, 70});
    }
    on_every_backend([&](const Table& ops, ops::Backend* backend) {
      const Outputs a = run(ops, backend, whole, h, window, in, false), b = run(ops, backend, steps, h, window, in, false);
      for (int64_t i = 70; i < 160; ++i) EXPECT(a.out.same_row(i, b.out, i));
    });
  }
}

TEST("attention: one token at a time gives the bits of the whole segment") {
  check_one_token_at_a_time({6, 2, 24}, F);
  // dims of whole and cut tiles; few and many heads to a key, one of them more than a decoding group takes
  for (const Heads h : {Heads{4, 2, 64}, Heads{4, 2, 128}, Heads{9, 3, 64}, Heads{20, 1, 40}, Heads{33, 1, 32}}) check_one_token_at_a_time(h, B);
}

TEST("attention: segments and spans that leave their tensors are refused") {
  const Heads h{2, 1, 4};
  Layout t = pair_of(4, 2, 2);
  Inputs in(t, h, F);
  Outputs o(t, h, F);
  OpsBackend& backend = backend_of();
  t.spans[1].length = 9;
  EXPECT_ERROR(backend.table().attention(backend.handle(), args_of(t, h, 0, in, o)), ErrorCode::invalid_argument, "span 1");
  t.spans[1].length = 4, t.segments[2].n_spans = 5;
  EXPECT_ERROR(backend.table().attention(backend.handle(), args_of(t, h, 0, in, o)), ErrorCode::invalid_argument, "segment 2");
}

}  // namespace
}  // namespace rlhi::test
