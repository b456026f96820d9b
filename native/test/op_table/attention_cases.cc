// Attention over prefix trees and caches, and its gradients.
#include <limits>

#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

// Elements between rows: bf16 rows begin at multiples of 16 bytes, as the engine's do and as a GPU's tensor cores want them.
int64_t gap_of(DType type) { return type == B ? 8 : 3; }

struct AttentionShape {
  Layout layout;
  Heads heads;
  int window;
  DType type;
};

class AttentionTensors {
 public:
  explicit AttentionTensors(const AttentionShape& s)
      : shape(s), q(make(s.layout.rows, s.heads.n, 1)), k(make(s.layout.key_rows, s.heads.kv, 2)),
        v(make(s.layout.key_rows, s.heads.kv, 3)), dout(make(s.layout.rows, s.heads.n, 4)), out(make(s.layout.rows, s.heads.n, 5)),
        lse(Matrix::random(s.layout.rows, s.heads.n, F, 6)), out_before(out), lse_before(lse) {}
  ops::AttentionArgs args() {
    ops::AttentionArgs a;
    const Layout& t = shape.layout;
    a.n_heads = shape.heads.n, a.n_kv_heads = shape.heads.kv, a.head_dim = shape.heads.dim, a.window = shape.window;
    a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.head_dim)));
    a.q = q.tensor(), a.k = k.tensor(), a.v = v.tensor(), a.out = out.tensor(), a.lse = lse.tensor();
    a.segments = t.segments.data(), a.n_segments = static_cast<int64_t>(t.segments.size());
    a.spans = t.spans.data(), a.n_spans = static_cast<int64_t>(t.spans.size());
    return a;
  }
  reference::Attention expected(bool backward) const {
    return reference::attention(shape.layout, shape.heads, shape.window, {Array(q), Array(k), Array(v), Array(dout)}, backward);
  }
  Matrix make(int64_t rows, int heads, uint32_t seed) const {
    return Matrix::random(rows, static_cast<int64_t>(heads) * shape.heads.dim, shape.type, seed, 1.0, gap_of(shape.type));
  }

  AttentionShape shape;
  Matrix q, k, v, dout, out, lse, out_before, lse_before;
};

// Where products are made of bf16, probabilities are rounded too.
double output_tolerance(const Table& ops, DType type) { return type == F ? 3e-6 : multiplies_halves(ops) ? 1.8e-2 : 1e-2; }

class AttentionCase : public OpCase {
 public:
  explicit AttentionCase(const AttentionShape& s) : t_(s) {}
  void prepare(const Table&, Backend*) override { t_.out = t_.out_before, t_.lse = t_.lse_before; }
  void call(const Table& ops, Backend* backend) override { ops.attention(backend, t_.args()); }
  void check(const Table& ops, Backend* backend) override {
    if (expected_.out.rows == 0) expected_ = t_.expected(false);
    std::vector<bool> written(static_cast<size_t>(t_.out.rows()));
    for (const ops::QuerySegment& s : t_.shape.layout.segments) {
      for (int64_t i = s.row; i < s.row + s.length; ++i) check_row(ops, i), written[static_cast<size_t>(i)] = true;
    }
    for (int64_t i = 0; i < t_.out.rows(); ++i)
      EXPECT(written[static_cast<size_t>(i)] || (t_.out.same_row(i, t_.out_before, i) && t_.lse.same_row(i, t_.lse_before, i)));
    t_.out.expect_gaps_untouched();
    t_.lse.expect_gaps_untouched();
    const Matrix with_lse = t_.out;
    ops::AttentionArgs a = t_.args();
    a.lse = Tensor();
    t_.out = t_.out_before;
    ops.attention(backend, a);
    EXPECT(t_.out == with_lse);
  }

 private:
  void check_row(const Table& ops, int64_t i) const {
    for (int64_t j = 0; j < t_.out.cols(); ++j) {
      const double e = expected_.out.at(i, j);
      expect_close(t_.out.at(i, j), e, output_tolerance(ops, t_.shape.type) * (1 + std::abs(e)), "out", i, j);
    }
    for (int64_t j = 0; j < t_.lse.cols(); ++j) {
      const double e = expected_.lse.at(i, j);
      if (std::isinf(e)) EXPECT_EQ(t_.lse.at(i, j), e);    // sees no key
      else expect_close(t_.lse.at(i, j), e, 4e-6, "lse", i, j);
    }
  }
  AttentionTensors t_;
  reference::Attention expected_;
};

class AttentionBackwardCase : public OpCase {
 public:
  explicit AttentionBackwardCase(const AttentionShape& s)
      : t_(s), dq_(t_.make(s.layout.rows, s.heads.n, 7)), dk_(t_.make(s.layout.key_rows, s.heads.kv, 8)),
        dv_(t_.make(s.layout.key_rows, s.heads.kv, 9)) {}
  void prepare(const Table& ops, Backend* backend) override { ops.attention(backend, t_.args()); }
  void call(const Table& ops, Backend* backend) override {
    ops::AttentionBackwardArgs a;
    a.forward = t_.args();
    a.dout = t_.dout.tensor(), a.dq = dq_.tensor(), a.dk = dk_.tensor(), a.dv = dv_.tensor();
    ops.attention_backward(backend, a);
  }
  void check(const Table& ops, Backend*) override {
    if (expected_.out.rows == 0) expected_ = t_.expected(true);
    const double steep = t_.shape.type == F ? 2e-5 : multiplies_halves(ops) ? 0.1 : 0.06;  // sums over queries of rounded terms
    const auto expect = [&](const char* what, const Matrix& found, const Array& d) {
      expect_values(what, found, d, [&](int64_t i, int64_t j) { return steep * (1 + std::abs(d.at(i, j))); });
    };
    expect("dq", dq_, expected_.dq);
    expect("dk", dk_, expected_.dk);
    expect("dv", dv_, expected_.dv);
  }

 private:
  AttentionTensors t_;
  Matrix dq_, dk_, dv_;
  reference::Attention expected_;
};

const Heads kHeadCounts[] = {{1, 1, 0}, {2, 2, 0},  {4, 2, 0}, {9, 3, 0},
                             {7, 1, 0}, {16, 1, 0}, {33, 1, 0}};  // alone, side by side, few and many to a key
const std::vector<int64_t> kHeadChoices{0, 1, 2, 3, 4, 5, 6};
Heads heads_of(int64_t choice, int64_t dim) {
  Heads h = kHeadCounts[choice];
  h.dim = static_cast<int>(dim);
  return h;
}
std::string describe(const std::string& layout, const AttentionShape& s) {
  return concat(layout, ", ", s.heads.n, " heads, ", s.heads.kv, " of keys, ", s.heads.dim, " wide, window ", s.window, ", ",
                type_name(s.type));
}

// Vectors and register tiles of columns, whole and cut panels of 32.
const std::vector<int64_t> kDims{1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 128};
const std::vector<int64_t> kWindows{0, 1, 7, 63, 64, 65};

// Pairs whose parts lie around blocks of 64 keys, parts of 64 columns, tiles of 192 columns, and the 8 columns that are few.
template <class Case>
std::vector<OpCaseMaker> pair_cases() {
  std::vector<OpCaseMaker> all;
  const auto work = [](const Combination& c) {
    const Heads h = heads_of(c[3], c[4]);
    const double p = static_cast<double>(c[0]), x = static_cast<double>(c[1] + c[2]);
    return (p * p / 2 + p * x + x * x / 2) * h.n * h.dim;
  };
  const std::vector<std::vector<int64_t>> choices{{1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193},
                                                  {1, 2, 7, 8, 9, 27, 28, 63, 64, 65},
                                                  {1, 5, 64, 90},
                                                  kHeadChoices,
                                                  kDims,
                                                  kWindows,
                                                  {0, 1}};
  for (const Combination& c : pairwise(choices, work, 4'000'000)) {
    const AttentionShape s{pair_of(static_cast<int32_t>(c[0]), static_cast<int32_t>(c[1]), static_cast<int32_t>(c[2])),
                           heads_of(c[3], c[4]), static_cast<int>(c[5]), kTypes[c[6]]};
    all.push_back(op_case<Case>(describe(concat("pair of ", c[0], ", ", c[1], " and ", c[2]), s), s));
  }
  Layout trees;                                      // several ancestors, several trees
  const int a = trees.add(30), b = trees.add(20, a);
  trees.add(7, b), trees.add(66, b), trees.add(3, a);
  const int other = trees.add(11);
  trees.add(1, other), trees.add(2, other), trees.add(3, other);
  for (const int window : {0, 25}) {
    for (const DType type : kTypes) {
      const AttentionShape s{trees, {4, 2, 16}, window, type};
      all.push_back(op_case<Case>(describe("trees", s), s));
    }
  }
  return all;
}

// `sequences` decoding steps over a shared beginning and their own keys, which lie last first with gaps between.
Layout steps_of(int64_t sequences, int64_t shared, int64_t own) {
  Layout t;
  t.key_rows = static_cast<int32_t>(2 + sequences * (own + 1) + shared);
  for (int64_t i = 0; i < sequences; ++i) {
    t.segments.push_back({static_cast<int32_t>(2 * i), 1, static_cast<int32_t>(shared + own - 1), static_cast<int32_t>(t.spans.size()),
                          shared > 0 ? 2 : 1});
    if (shared > 0) t.spans.push_back({static_cast<int32_t>(t.key_rows - shared), static_cast<int32_t>(shared), 0});
    t.spans.push_back(
        {static_cast<int32_t>((sequences - 1 - i) * (own + 1) + 1), static_cast<int32_t>(own), static_cast<int32_t>(shared)});
  }
  t.rows = static_cast<int32_t>(2 * sequences);      // every other row belongs to nobody
  return t;
}

// One sequence in three pieces, another on the same beginning, a first token, four new tokens at once; rows 2 and 8 are nobody's.
Layout scattered_cache() {
  Layout t;
  t.key_rows = 400, t.rows = 9;
  t.spans = {{200, 90, 0}, {10, 70, 90}, {390, 1, 160}, {200, 90, 0}, {100, 5, 90}, {0, 1, 0}, {300, 64, 0}, {364, 3, 64}};
  t.segments = {{3, 1, 160, 0, 3}, {0, 1, 94, 3, 2}, {1, 1, 0, 5, 1}, {4, 4, 63, 6, 2}};
  return t;
}

void add_decoding(std::vector<OpCaseMaker>& all) {
  const auto work = [](const Combination& c) { return static_cast<double>(c[0] * (c[1] + c[2]) * heads_of(c[3], c[4]).n * c[4]); };
  for (const Combination& c :
       pairwise({{1, 2, 3, 9, 30}, {0, 1, 63, 64, 65, 129}, {1, 63, 64, 65, 130}, kHeadChoices, kDims, kWindows, {0, 1}}, work,
                2'000'000)) {
    const AttentionShape s{steps_of(c[0], c[1], c[2]), heads_of(c[3], c[4]), static_cast<int>(c[5]), kTypes[c[6]]};
    all.push_back(op_case<AttentionCase>(describe(concat(c[0], " steps after ", c[1], " shared and ", c[2], " own"), s), s));
  }
  for (const Combination& c : pairwise({kHeadChoices, {20, 64, 128}, {0, 3, 64}, {0, 1}}, [](const Combination&) { return 0.0; }, 1)) {
    const AttentionShape s{scattered_cache(), heads_of(c[0], c[1]), static_cast<int>(c[2]), kTypes[c[3]]};
    all.push_back(op_case<AttentionCase>(describe("scattered cache", s), s));
  }
  Layout blind;                                      // a query that sees no key
  blind.key_rows = 4, blind.rows = 1;
  blind.spans = {{0, 4, 0}}, blind.segments = {{0, 1, 50, 0, 1}};
  for (const DType type : kTypes) {
    const AttentionShape s{blind, {2, 1, 8}, 10, type};
    all.push_back(op_case<AttentionCase>(describe("no key", s), s));
  }
}

template <class Case>
std::vector<OpCaseMaker> attention_model_cases() {
  Layout pairs;                                      // SmolLM2-135M's heads; 1024 rows of two pairs
  for (int i = 0; i < 2; ++i) {
    const int prompt = pairs.add(256);
    pairs.add(128, prompt), pairs.add(128, prompt);
  }
  std::vector<OpCaseMaker> all;
  for (const DType type : kTypes) {
    const AttentionShape s{pairs, {9, 3, 64}, 0, type};
    all.push_back(op_case<Case>(concat("two pairs of 256, 128 and 128 ", type_name(type)), s));
  }
  return all;
}

}  // namespace

std::vector<OpCaseMaker> OpCases::attention_edges() {
  std::vector<OpCaseMaker> all = pair_cases<AttentionCase>();
  add_decoding(all);
  return all;
}
std::vector<OpCaseMaker> OpCases::attention_model() { return attention_model_cases<AttentionCase>(); }
std::vector<OpCaseMaker> OpCases::attention_backward_edges() { return pair_cases<AttentionBackwardCase>(); }
std::vector<OpCaseMaker> OpCases::attention_backward_model() { return attention_model_cases<AttentionBackwardCase>(); }

void OpCases::attention_gradient() {
  const AttentionShape s{pair_of(3, 2, 4), {4, 2, 3}, 4, F};
  AttentionTensors t(s);
  reference::AttentionInputs in{Array(t.q), Array(t.k), Array(t.v), Array(t.dout)};
  const auto loss = [&] { return dot(reference::attention(s.layout, s.heads, s.window, in, false).out, in.dout); };
  const Array dq = slopes(in.q, loss), dk = slopes(in.k, loss), dv = slopes(in.v, loss);
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found_q(9, 12), found_k(9, 6), found_v(9, 6);
    ops::AttentionBackwardArgs a;
    a.forward = t.args();
    a.dout = t.dout.tensor(), a.dq = found_q.tensor(), a.dk = found_k.tensor(), a.dv = found_v.tensor();
    ops.attention(backend, a.forward);
    ops.attention_backward(backend, a);
    expect_gradient("dq", found_q, dq, 4e-6);
    expect_gradient("dk", found_k, dk, 4e-6);
    expect_gradient("dv", found_v, dv, 4e-6);
  });
}

}  // namespace rlhi::test
