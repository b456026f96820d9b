// The CUDA kernels of attention on this processor: against the CPU backend, in both forms of tensor-core products, in any order of
// threads; and a row's bits, which depend neither on what else is in the call, nor on how its spans are cut, nor on the kernel.
#include <functional>

#include "ops/cuda/attention_lists.h"
#include "ops/cuda/emulate/block.h"
#include "test/attention_layout.h"
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

namespace cuda = ops::cuda;
using ops::AttentionArgs;
using ops::AttentionBackwardArgs;
using ops::KeySpan;
using ops::QuerySegment;
constexpr DType F = DType::f32, B = DType::bf16;
const cuda::Launch kAt{nullptr, 3};  // few multiprocessors, so that each has several tiles

struct Matrices {
  Matrices(const Layout& t, Heads h, DType type, int64_t gap = 8)
      : q(Matrix::random(t.rows, h.n * h.dim, type, 1, 1.0, gap)), k(Matrix::random(t.key_rows, h.kv * h.dim, type, 2, 1.0, gap)),
        v(Matrix::random(t.key_rows, h.kv * h.dim, type, 3, 1.0, gap)), dout(Matrix::random(t.rows, h.n * h.dim, type, 4, 1.0, gap)),
        out(t.rows, h.n * h.dim, type, gap), lse(t.rows, h.n), dq(t.rows, h.n * h.dim, type, gap), dk(t.key_rows, h.kv * h.dim, type, gap),
        dv(t.key_rows, h.kv * h.dim, type, gap) {}
  Matrix q, k, v, dout, out, lse, dq, dk, dv;

  void expect_gaps_untouched() const {
    for (const Matrix* m : {&out, &lse, &dq, &dk, &dv}) m->expect_gaps_untouched();
  }
  bool operator==(const Matrices& o) const { return out == o.out && lse == o.lse && dq == o.dq && dk == o.dk && dv == o.dv; }
};

AttentionBackwardArgs args_of(const Layout& t, Heads h, int window, Matrices& m) {
  AttentionBackwardArgs b;
  AttentionArgs& a = b.forward;
  a.n_heads = h.n, a.n_kv_heads = h.kv, a.head_dim = h.dim, a.window = window;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h.dim)));
  a.q = m.q.tensor(), a.k = m.k.tensor(), a.v = m.v.tensor(), a.out = m.out.tensor(), a.lse = m.lse.tensor();
  a.segments = t.segments.data(), a.n_segments = static_cast<int64_t>(t.segments.size());
  a.spans = t.spans.data(), a.n_spans = static_cast<int64_t>(t.spans.size());
  b.dout = m.dout.tensor(), b.dq = m.dq.tensor(), b.dk = m.dk.tensor(), b.dv = m.dv.tensor();
  return b;
}

void on_cpu(const Layout& t, Heads h, int window, Matrices& m, bool backward) {
  static ops::CpuBackend backend([] {
    ops::CpuBackendOptions options;
    options.isa = widening_isa();
    options.threads = 2;
    return options;
  }());
  const AttentionBackwardArgs b = args_of(t, h, window, m);
  backend.table().attention(backend.handle(), b.forward);
  if (backward) backend.table().attention_backward(backend.handle(), b);
}

// `decode`: segments of length one go to the decoding kernels where the plan allows it.
void forward_on_cuda(const Layout& t, Heads h, int window, Matrices& m, bool decode = true) {
  const AttentionArgs a = args_of(t, h, window, m).forward;
  cuda::AttentionLists lists;
  cuda::AttentionPlan plan = cuda::plan_attention(a);
  plan.decode = plan.decode && decode;
  const cuda::ForwardLists& f = lists.forward(a, plan);
  cuda::attention(kAt, plan, a, f.tiles.data(), static_cast<int64_t>(f.tiles.size()));
  if (!f.segments.empty()) {
    std::vector<char> scratch(cuda::attention_decode_scratch(a, f.n_blocks));
    const cuda::DecodeWork work{f.splits.data(), static_cast<int64_t>(f.splits.size()), f.queries.data(), f.segments.data(),
                                static_cast<int64_t>(f.segments.size()), f.n_blocks};
    cuda::attention_decode(kAt, a, work, scratch.data());
  }
  m.expect_gaps_untouched();
}
void backward_on_cuda(const Layout& t, Heads h, int window, Matrices& m, bool specialized = true) {
  const AttentionBackwardArgs b = args_of(t, h, window, m);
  cuda::AttentionLists lists;
  const cuda::AttentionPlan plan = cuda::plan_attention_backward(b, specialized);
  const cuda::BackwardLists& l = lists.backward(b.forward, plan);
  const cuda::BackwardTiles tiles{l.query_tiles.data(), static_cast<int64_t>(l.query_tiles.size()), l.key_tiles.data(),
                                  static_cast<int64_t>(l.key_tiles.size()), l.visitors.data()};
  std::vector<char> scratch(cuda::attention_backward_scratch(b));
  cuda::attention_backward(kAt, plan, b, tiles, scratch.data());
  m.expect_gaps_untouched();
}

// f() with the products of warps, then with those of warpgroups.
void in_both_forms(const std::function<void()>& f) {
  for (const bool group : {false, true}) {
    cuda::emulate::options.group_products = group;
    try {
      f();
    } catch (const std::exception& e) {
      cuda::emulate::options = {};
      throw std::runtime_error(concat(group ? "warpgroup products: " : "warp products: ", e.what()));
    }
  }
  cuda::emulate::options = {};
}

void expect_matrix(const Matrix& found, const Matrix& expected, double tolerance, const char* what) {
  double error = 0, size = 1e-4 * static_cast<double>(expected.rows() * expected.cols());  // a gradient may be zero throughout
  for (int64_t i = 0; i < expected.rows(); ++i) {
    for (int64_t j = 0; j < expected.cols(); ++j) {
      const double e = expected.at(i, j), d = found.at(i, j) - e;
      if (std::isinf(e) && e == found.at(i, j)) continue;
      expect_close(found.at(i, j), e, 10 * tolerance * (1 + std::abs(e)), what, i, j);
      error += d * d, size += e * e;
    }
  }
  if (!(error <= tolerance * tolerance * size)) throw std::runtime_error(concat(what, ": relative error ", std::sqrt(error / size)));
}

void check_layout(const Layout& t, Heads h, int window, DType type, int64_t gap = 8) {
  Matrices expected(t, h, type, gap), found = expected;
  on_cpu(t, h, window, expected, true);
  forward_on_cuda(t, h, window, found);
  expect_matrix(found.out, expected.out, type == F ? 1e-6 : 2.5e-3, "out");
  expect_matrix(found.lse, expected.lse, 1e-6, "lse");
  found.out = expected.out, found.lse = expected.lse;  // the backward of the same forward
  backward_on_cuda(t, h, window, found);
  // Of a handful of rows one may lose its digits to dp - delta; over many that averages out.
  const double steep = type == F ? 2e-6 : t.rows < 10 ? 3e-2 : 4.5e-3;
  expect_matrix(found.dq, expected.dq, steep, "dq");
  expect_matrix(found.dk, expected.dk, steep, "dk");
  expect_matrix(found.dv, expected.dv, steep, "dv");
}

TEST("cuda attention: pairs of many lengths, head sizes and windows, forward and backward") {
  in_both_forms([] {
    for (const Heads h : {Heads{2, 1, 64}, Heads{2, 2, 96}, Heads{2, 1, 128}}) {
      for (const int window : {0, 1, 70}) check_layout(pair_of(1, 1, 1), h, window, B);
      for (const int window : {1, 70}) check_layout(pair_of(64, 1, 65), h, window, B);
      check_layout(pair_of(130, 63, 70), h, 0, B);
      check_layout(pair_of(7, 193, 128), h, 0, B);
    }
    for (const int window : {0, 70}) check_layout(pair_of(130, 63, 7), {6, 2, 64}, window, B);
  });
}

TEST("cuda attention: the plain kernels take f32, other head sizes and unaligned rows") {
  for (const Heads h : {Heads{1, 1, 1}, Heads{4, 2, 20}, Heads{2, 1, 64}}) {
    for (const int window : {0, 7}) {
      check_layout(pair_of(1, 1, 1), h, window, F);
      check_layout(pair_of(65, 3, 70), h, window, F);
    }
  }
  check_layout(pair_of(20, 40, 5), {4, 2, 24}, 9, B);
  check_layout(pair_of(20, 40, 5), {2, 1, 64}, 0, B, 3);
}

TEST("cuda attention: several ancestors and trees, ancestors' spans cut in two") {
  Layout t;
  const int a = t.add(30), b = t.add(80, a);
  t.add(7, b);
  t.add(66, b);
  t.add(3, a);
  const int c = t.add(200);
  t.add(1, c), t.add(130, c);
  // The last segment sees its ancestor in two pieces.
  QuerySegment& last = t.segments.back();
  const auto first = static_cast<int32_t>(t.spans.size());
  const KeySpan ancestor = t.spans[static_cast<size_t>(last.first_span)], own = t.spans[static_cast<size_t>(last.first_span + 1)];
  t.spans.push_back({ancestor.row, 128, ancestor.position});
  t.spans.push_back({ancestor.row + 128, ancestor.length - 128, ancestor.position + 128});
  t.spans.push_back(own);
  last.first_span = first, last.n_spans = 3;
  in_both_forms([&] {
    for (const int window : {0, 25}) check_layout(t, {2, 1, 64}, window, B);
  });
  check_layout(t, {2, 1, 10}, 25, F);
}

TEST("cuda attention: decoding from a cache has the bits of the whole segment's pass") {
  Layout t;
  t.key_rows = 700;
  t.spans = {{200, 290, 0}, {10, 70, 290}, {690, 1, 360},  // one sequence in three pieces
             {200, 290, 0}, {100, 5, 290},                 // another on the same prompt
             {0, 1, 0},                                    // a first token
             {500, 64, 0}, {564, 3, 64}};                  // four new tokens at once
  t.segments = {{3, 1, 360, 0, 3}, {0, 1, 294, 3, 2}, {1, 1, 0, 5, 1}, {4, 4, 63, 6, 2}};
  t.rows = 9;
  in_both_forms([&] {
    for (const Heads h : {Heads{9, 3, 64}, Heads{20, 1, 96}, Heads{2, 2, 128}}) {
      for (const int window : {0, 64, 3}) {
        Matrices expected(t, h, B), decoded = expected, whole = expected;
        on_cpu(t, h, window, expected, false);
        forward_on_cuda(t, h, window, decoded);
        forward_on_cuda(t, h, window, whole, false);
        expect_matrix(decoded.out, expected.out, 2.5e-3, "out");
        expect_matrix(decoded.lse, expected.lse, 1e-6, "lse");
        EXPECT(decoded == whole);
      }
    }
  });
}

TEST("cuda attention: samples of one prompt read its keys together, with the bits of each alone") {
  // Nine samples of one prompt of 200 tokens that are not equally far, and two of another, in turn; a third prompt alone.
  Layout t;
  t.key_rows = 900;
  for (int32_t i = 0; i < 12; ++i) {
    const bool second = i == 3 || i == 7, third = i == 11;
    const int32_t length = second ? 100 : third ? 64 : 200, answer = third ? 1 : 2 + 11 * i;
    t.segments.push_back({i, 1, length + answer - 1, static_cast<int32_t>(t.spans.size()), 2});
    t.spans.push_back({second ? 200 : third ? 300 : 0, length, 0});
    t.spans.push_back({600 + 20 * i, std::min(answer, 20), length + answer - std::min(answer, 20)});
  }
  t.rows = 12;
  for (const Heads h : {Heads{9, 3, 64}, Heads{4, 2, 96}, Heads{8, 8, 128}, Heads{17, 1, 64}}) {
    cuda::AttentionLists lists;
    Matrices m(t, h, B);
    const AttentionArgs a = args_of(t, h, 0, m).forward;
    const cuda::ForwardLists& f = lists.forward(a, cuda::plan_attention(a));
    const int most = cuda::decode_queries(a);
    EXPECT_EQ(most, std::max(1, 16 / (h.n / h.kv)));
    const auto read = std::count_if(f.splits.begin(), f.splits.end(), [](const cuda::DecodeSplit& split) { return split.n_keys > 0; });
    EXPECT_EQ(read, 12 + 2 * ((9 + most - 1) / most) + (2 + most - 1) / most + 1);
    for (const int window : {0, 150, 30}) {
      Matrices together(t, h, B), whole = together;
      forward_on_cuda(t, h, window, together);
      forward_on_cuda(t, h, window, whole, false);
      EXPECT(together == whole);
      for (size_t i = 0; i < t.segments.size(); ++i) {
        Layout one = t;
        one.segments = {t.segments[i]};
        Matrices alone(t, h, B);
        forward_on_cuda(one, h, window, alone);
        EXPECT(together.out.same_row(static_cast<int64_t>(i), alone.out, static_cast<int64_t>(i)));
      }
    }
  }
}

TEST("cuda attention: a query that sees no key gives zeros") {
  Layout t;
  t.key_rows = 4, t.rows = 1;
  t.spans = {{0, 4, 0}};
  t.segments = {{0, 1, 50, 0, 1}};
  for (const Heads h : {Heads{2, 1, 8}, Heads{2, 1, 64}}) {
    for (const bool decode : {false, true}) {
      Matrices m(t, h, B);
      forward_on_cuda(t, h, 10, m, decode);
      for (int64_t j = 0; j < m.out.cols(); ++j) EXPECT_EQ(m.out.at(0, j), 0.0);
      EXPECT_EQ(m.lse.at(0, 0), -std::numeric_limits<double>::infinity());
    }
  }
}

TEST("cuda attention: large scores neither overflow nor lose the largest") {
  const Layout t = pair_of(40, 90, 20);
  const Heads h{2, 1, 64};
  in_both_forms([&] {
    Matrices expected(t, h, B);
    expected.q = Matrix::random(t.rows, 128, B, 1, 30.0, 8);
    expected.k = Matrix::random(t.rows, 64, B, 2, 30.0, 8);
    Matrices found = expected;
    on_cpu(t, h, 0, expected, false);
    forward_on_cuda(t, h, 0, found);
    expect_matrix(found.out, expected.out, 2e-2, "out");
  });
}

// Rows of `inner` that lie at `offset` in the rows of `outer`.
void expect_same_rows(const Matrix& outer, const Matrix& inner, int64_t offset, const char* what) {
  for (int64_t i = 0; i < inner.rows(); ++i) {
    if (!outer.same_row(offset + i, inner, i)) throw std::runtime_error(concat(what, ": row ", i, " has other bits beside other segments"));
  }
}
void copy_rows(Matrix& inner, const Matrix& outer, int64_t offset) {
  for (int64_t i = 0; i < inner.rows(); ++i) {
    for (int64_t j = 0; j < inner.cols(); ++j) inner.set(i, j, outer.at(offset + i, j));
  }
}

TEST("cuda attention: a tree has the bits it has alone, in any order of threads") {
  in_both_forms([] {
    for (const Heads h : {Heads{2, 1, 64}, Heads{2, 2, 24}}) {
      for (const int window : {0, 40}) {
        Layout both;
        const int p = both.add(90);
        both.add(50, p), both.add(77, p);
        const int offset = both.rows, second = both.add(61);
        both.add(20, second), both.add(130, second);
        const Layout alone = pair_of(61, 20, 130);
        Matrices in(both, h, B), in_alone(alone, h, B);
        copy_rows(in_alone.q, in.q, offset), copy_rows(in_alone.k, in.k, offset);
        copy_rows(in_alone.v, in.v, offset), copy_rows(in_alone.dout, in.dout, offset);
        forward_on_cuda(alone, h, window, in_alone);
        backward_on_cuda(alone, h, window, in_alone);
        for (const uint32_t seed : {0u, 1u, 2u, 3u}) {
          cuda::emulate::options.order_seed = seed;
          cuda::emulate::options.unfair = seed > 0;
          Matrices m = in;
          forward_on_cuda(both, h, window, m);
          backward_on_cuda(both, h, window, m);
          expect_same_rows(m.out, in_alone.out, offset, "out");
          expect_same_rows(m.lse, in_alone.lse, offset, "lse");
          expect_same_rows(m.dq, in_alone.dq, offset, "dq");
          expect_same_rows(m.dk, in_alone.dk, offset, "dk");
          expect_same_rows(m.dv, in_alone.dv, offset, "dv");
        }
        cuda::emulate::options.order_seed = 0;
        cuda::emulate::options.unfair = false;
      }
    }
  });
}

TEST("cuda attention: gradients have the same bits where a warp brings tiles and where all warps do") {
  Layout branches;
  const int root = branches.add(150), middle = branches.add(90, root);
  branches.add(129, middle), branches.add(64, middle), branches.add(1, root);
  cuda::emulate::options.group_products = true;
  for (const Layout& t : {branches, pair_of(200, 128, 65)}) {
    for (const Heads h : {Heads{6, 2, 64}, Heads{2, 1, 96}, Heads{4, 1, 128}}) {
      for (const int window : {0, 90}) {
        Matrices one(t, h, B);
        forward_on_cuda(t, h, window, one);
        Matrices other = one;
        backward_on_cuda(t, h, window, one, false);
        backward_on_cuda(t, h, window, other, true);
        EXPECT(one == other);
        EXPECT(cuda::plan_attention_backward(args_of(t, h, window, one), true).specialized);
      }
    }
  }
  cuda::emulate::options = {};
}

TEST("cuda attention: rows of others that are not numbers change nothing") {
  const Heads h{2, 1, 64};
  Layout both;
  const int p = both.add(70);
  both.add(30, p), both.add(5, p);
  const int offset = both.rows, second = both.add(61);
  both.add(20, second), both.add(75, second);
  const int behind = both.rows;
  both.add(40);
  const Layout alone = pair_of(61, 20, 75);
  in_both_forms([&] {
    for (const bool specialized : {false, true}) {
      Matrices m(both, h, B), in_alone(alone, h, B);
      copy_rows(in_alone.q, m.q, offset), copy_rows(in_alone.k, m.k, offset);
      copy_rows(in_alone.v, m.v, offset), copy_rows(in_alone.dout, m.dout, offset);
      for (Matrix* x : {&m.q, &m.k, &m.v, &m.dout}) {
        for (int64_t i = 0; i < x->rows(); ++i) {
          for (int64_t j = 0; j < x->cols() && (i < offset || i >= behind); ++j) x->set(i, j, std::numeric_limits<double>::quiet_NaN());
        }
      }
      for (const auto& [t, of] : {std::pair<const Layout*, Matrices*>{&both, &m}, {&alone, &in_alone}}) {
        forward_on_cuda(*t, h, 0, *of);
        backward_on_cuda(*t, h, 0, *of, specialized);
      }
      expect_same_rows(m.out, in_alone.out, offset, "out");
      expect_same_rows(m.lse, in_alone.lse, offset, "lse");
      expect_same_rows(m.dq, in_alone.dq, offset, "dq");
      expect_same_rows(m.dk, in_alone.dk, offset, "dk");
      expect_same_rows(m.dv, in_alone.dv, offset, "dv");
    }
  });
}

TEST("cuda attention: tiles of GPUs with less shared memory, and none where there is too little") {
  const auto with_shared = [](size_t bytes, const Layout& t, Heads h) {
    cuda::emulate::options.shared_bytes = bytes;
    check_layout(t, h, 0, B);
    cuda::emulate::options = {};
  };
  with_shared(163 << 10, pair_of(70, 130, 3), {2, 1, 128});   // sm_80
  with_shared(99 << 10, pair_of(70, 13, 3), {2, 1, 64});      // sm_86, sm_89, sm_120: the plain kernels
}

TEST("cuda attention: a span cut at a multiple of the key block gives the same bits") {
  const Heads h{2, 1, 64};
  const Layout whole = pair_of(200, 5, 70);
  Layout cut = whole;
  for (QuerySegment& s : cut.segments) {
    if (s.n_spans != 2) continue;
    const KeySpan prompt = cut.spans[static_cast<size_t>(s.first_span)], own = cut.spans[static_cast<size_t>(s.first_span + 1)];
    s.first_span = static_cast<int32_t>(cut.spans.size()), s.n_spans = 3;
    cut.spans.push_back({prompt.row, 64, prompt.position});
    cut.spans.push_back({prompt.row + 64, prompt.length - 64, prompt.position + 64});
    cut.spans.push_back(own);
  }
  in_both_forms([&] {
    Matrices a(whole, h, B), b(cut, h, B);
    forward_on_cuda(whole, h, 0, a);
    forward_on_cuda(cut, h, 0, b);
    EXPECT(a == b);
  });
}

}  // namespace
}  // namespace rlhi::test
