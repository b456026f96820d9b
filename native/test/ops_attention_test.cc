// Attention's bits, which must not depend on a row's neighbours, on threads, or on what else is decoded; scores at the ends of f32; and what
// is refused. Values and gradients at every edge are op_table/attention_cases.cc's.
#include "ops/cpu/backend.h"
#include "test/op_table/references.h"

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

TEST("attention: large scores neither overflow nor lose the largest") {
  Layout t = pair_of(40, 30, 20);
  const Heads h{2, 1, 16};
  Inputs in(t, h, F);
  in.q = Matrix::random(t.rows, 32, F, 1, 60.0);
  in.k = Matrix::random(t.rows, 16, F, 2, 60.0);
  const reference::Attention r = reference::attention(t, h, 0, {Array(in.q), Array(in.k), Array(in.v), Array(in.dout)}, false);
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    const Outputs o = run(ops, backend, t, h, 0, in, false);
    for (int64_t i = 0; i < t.rows; ++i) {             // scores near 1e4: f32 holds them to 1e-3
      for (int64_t j = 0; j < o.out.cols(); ++j) expect_close(o.out.at(i, j), r.out.at(i, j), 2e-2 * (1 + std::abs(r.out.at(i, j))), "out", i, j);
    }
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
