// Packed prefix trees, the cached forward and training's forward against the plain one, and the rules of packing.
#include <cstring>

#include "model/activations.h"
#include "test/check.h"
#include "test/tiny_models.h"

using namespace rlhi;
using namespace rlhi::test;

namespace {

using Floats = std::vector<float>;

PackedTokens sequence(const std::vector<int32_t>& ids) {
  TreePacker packer;
  packer.add_tree(ids, {});
  return packer.take();
}

std::vector<int32_t> all_rows(int64_t n) {
  std::vector<int32_t> rows(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  return rows;
}

Floats hidden_rows(TinyModel& m, const PackedTokens& tokens, const std::vector<int32_t>& rows) {
  const int64_t d = m.weights.config().hidden_size;
  const DeviceMatrix out(m.ops(), m.handle(), DType::f32, static_cast<int64_t>(rows.size()), d);
  m.transformer.forward_rows(tokens, rows, out.tensor());
  return out.floats();
}

double largest_difference(const Floats& a, const Floats& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, static_cast<double>(std::abs(a[i] - b[i])));
  return worst;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Tree {
  std::vector<int32_t> prompt;
  std::vector<std::vector<int32_t>> continuations;
};
Tree random_tree(uint64_t seed, std::initializer_list<int64_t> lengths, int64_t vocab) {
  Numbers numbers(seed);
  Tree t;
  for (const int64_t n : lengths) {
    if (t.prompt.empty()) t.prompt = random_ids(numbers, n, vocab);
    else t.continuations.push_back(random_ids(numbers, n, vocab));
  }
  return t;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST("tree packer: the prompt is there once and the last tokens of continuations have no row") {
  TreePacker packer;
  packer.add_tree({9}, {});
  const auto placed = packer.add_tree({5, 6, 7}, {{10, 11, 12}, {20}, {30, 31}});
  EXPECT_EQ(packer.size(), 7);
  const PackedTokens t = packer.take();
  EXPECT(t.ids == (std::vector<int32_t>{9, 5, 6, 7, 10, 11, 30}));
  EXPECT(t.positions == (std::vector<int32_t>{0, 0, 1, 2, 3, 4, 3}));
  EXPECT(placed[0].predictor_rows == (std::vector<int32_t>{3, 4, 5}));
  EXPECT(placed[1].predictor_rows == (std::vector<int32_t>{3}));
  EXPECT(placed[2].predictor_rows == (std::vector<int32_t>{3, 6}));
  EXPECT_EQ(t.segments.size(), 4u);
  const ops::QuerySegment& last = t.segments[3];
  EXPECT_EQ(last.row, 6);
  EXPECT_EQ(last.position, 3);
  EXPECT_EQ(last.n_spans, 2);
  const ops::KeySpan& ancestor = t.spans[static_cast<size_t>(last.first_span)];
  EXPECT_EQ(ancestor.row, 1);
  EXPECT_EQ(ancestor.length, 3);
  EXPECT_EQ(ancestor.position, 0);
  EXPECT_EQ(t.spans[static_cast<size_t>(last.first_span) + 1].row, 6);
  EXPECT_EQ(packer.size(), 0);
}

TEST("tree packer: an empty prompt or continuation is refused") {
  TreePacker packer;
  EXPECT_ERROR(packer.add_tree({}, {{1}}), ErrorCode::invalid_argument, "prompt needs at least one token");
  EXPECT_ERROR(packer.add_tree({1}, {{1}, {}}), ErrorCode::invalid_argument, "continuation 1 is empty");
  EXPECT_EQ(packer.size(), 0);
}

TEST("transformer: a packed tree computes what its sequences compute alone") {
  for (const Architecture architecture : all_architectures()) {
    TinyModel m(tiny_config(architecture), DType::f32);
    const Tree tree = random_tree(3, {13, 21, 1, 10}, m.weights.config().vocab_size);
    TreePacker packer;
    packer.add_tree({4, 8, 15}, {{16, 23}});
    const auto placed = packer.add_tree(tree.prompt, tree.continuations);
    const PackedTokens packed = packer.take();
    for (size_t c = 0; c < placed.size(); ++c) {
      const std::vector<int32_t> alone = joined(tree.prompt, tree.continuations[c]);
      std::vector<int32_t> rows = all_rows(static_cast<int64_t>(alone.size()) - 1);
      rows.erase(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(tree.prompt.size()) - 1);
      const double worst = largest_difference(hidden_rows(m, packed, placed[c].predictor_rows), hidden_rows(m, sequence(alone), rows));
      EXPECT_NEAR(worst, 0, 2e-5);
    }
  }
}

TEST("transformer: a tree's bits do not depend on its neighbours, threads or packed weights") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Architecture architecture : all_architectures()) {
        TinyModel m(tiny_config(architecture), dtype, backend);
        const Tree tree = random_tree(3, {13, 21, 1, 10}, m.weights.config().vocab_size);
        const Tree before = random_tree(4, {37, 3, 50}, m.weights.config().vocab_size);
        const Tree after = random_tree(5, {1, 2}, m.weights.config().vocab_size);
        TreePacker packer;
        const auto at = packer.add_tree(tree.prompt, tree.continuations);
        const Floats alone = hidden_rows(m, packer.take(), at[0].predictor_rows);
        packer.add_tree(before.prompt, before.continuations);
        const auto among = packer.add_tree(tree.prompt, tree.continuations);
        packer.add_tree(after.prompt, after.continuations);
        const PackedTokens packed = packer.take();
        EXPECT(same_bits(alone, hidden_rows(m, packed, among[0].predictor_rows)));
        m.transformer.pack();
        EXPECT(same_bits(alone, hidden_rows(m, packed, among[0].predictor_rows)));
        TinyModel one_thread(tiny_config(architecture), dtype, backend, 1, 1);
        EXPECT(same_bits(alone, hidden_rows(one_thread, packed, among[0].predictor_rows)));
      }
    }
  }
}

TEST("transformer: training's forward gives the bits of inference") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Architecture architecture : all_architectures()) {
      TinyModel m(tiny_config(architecture), dtype);
      const Tree tree = random_tree(6, {9, 17, 5}, m.weights.config().vocab_size);
      TreePacker packer;
      const auto placed = packer.add_tree(tree.prompt, tree.continuations);
      const PackedTokens packed = packer.take();
      const std::vector<int32_t> rows = joined(placed[0].predictor_rows, placed[1].predictor_rows);
      const auto n = static_cast<int64_t>(rows.size()), d = m.weights.config().hidden_size;
      const DeviceMatrix inference(m.ops(), m.handle(), dtype, n, d);
      m.transformer.forward_rows(packed, rows, inference.tensor());
      const auto activations = m.transformer.plan_activations(Recompute::norms, packed.size() + 5, n + 3);
      const Tensor hidden = m.transformer.forward(packed, rows, *activations);
      EXPECT(hidden.dtype == dtype);
      EXPECT(download(m.ops(), m.handle(), hidden.data, static_cast<size_t>(hidden.bytes())) == inference.bytes());
    }
  }
}

TEST("transformer: the cached forward, token by token from a shared prompt, equals the row forward") {
  for (const Architecture architecture : all_architectures()) {
    TinyModel m(tiny_config(architecture), DType::f32);
    const ModelConfig& c = m.weights.config();
    const Tree tree = random_tree(7, {19, 12, 9}, c.vocab_size);
    const auto prompt = static_cast<int32_t>(tree.prompt.size());
    KvCache cache(c, DType::f32, 64, m.ops(), m.handle());
    // The prompt's rows begin at 40; each answer has a run of its own elsewhere.
    std::vector<int32_t> cache_rows(tree.prompt.size());
    for (int32_t i = 0; i < prompt; ++i) cache_rows[static_cast<size_t>(i)] = 40 + i;
    PackedTokens prefill = sequence(tree.prompt);
    prefill.spans[0].row = 40;
    const int64_t d = c.hidden_size;
    const DeviceMatrix last(m.ops(), m.handle(), DType::f32, 1, d);
    m.transformer.forward_cached(prefill, cache_rows, cache, {prompt - 1}, last.tensor());
    EXPECT_NEAR(largest_difference(last.floats(), hidden_rows(m, sequence(tree.prompt), {prompt - 1})), 0, 1e-5);

    const int32_t own_row[] = {20, 3};
    for (int32_t step = 0; step < 12; ++step) {
      PackedTokens tokens;
      std::vector<int32_t> rows;
      Floats expected;
      for (size_t s = 0; s < 2; ++s) {
        if (step >= static_cast<int32_t>(tree.continuations[s].size())) continue;
        tokens.segments.push_back({static_cast<int32_t>(tokens.size()), 1, prompt + step, static_cast<int32_t>(tokens.spans.size()), 2});
        tokens.spans.push_back({40, prompt, 0});
        tokens.spans.push_back({own_row[s], step + 1, prompt});
        tokens.ids.push_back(tree.continuations[s][static_cast<size_t>(step)]);
        tokens.positions.push_back(prompt + step);
        rows.push_back(own_row[s] + step);
        const std::vector<int32_t> so_far(tree.continuations[s].begin(), tree.continuations[s].begin() + step + 1);
        const Floats row = hidden_rows(m, sequence(joined(tree.prompt, so_far)), {prompt + step});
        expected.insert(expected.end(), row.begin(), row.end());
      }
      const auto n = static_cast<int64_t>(rows.size());
      const DeviceMatrix hidden(m.ops(), m.handle(), DType::f32, n, d);
      m.transformer.forward_cached(tokens, rows, cache, all_rows(n), hidden.tensor());
      EXPECT_NEAR(largest_difference(hidden.floats(), expected), 0, 1e-5);
    }
  }
}

TEST("transformer: logits are the head's products, the same packed or not, from f32 or rounded rows") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyModel m(tiny_config(Architecture::qwen2), dtype);
    const ModelConfig& c = m.weights.config();
    const PackedTokens tokens = sequence({3, 1, 4, 1, 5});
    const DeviceMatrix rows(m.ops(), m.handle(), DType::f32, 5, c.hidden_size), logits(m.ops(), m.handle(), DType::f32, 5, c.vocab_size);
    m.transformer.forward_rows(tokens, all_rows(5), rows.tensor());
    m.transformer.logits(rows.tensor(), logits.tensor());
    const Floats hidden = rows.floats(), plain = logits.floats(), head = download_floats(m.ops(), m.handle(), m.weights.head);
    m.transformer.pack();
    EXPECT_EQ(m.transformer.packed_head() != nullptr, m.transformer.packed_bytes() > 0);
    m.transformer.logits(rows.tensor(), logits.tensor());
    EXPECT(same_bits(plain, logits.floats()));
    for (int64_t v = 0; v < c.vocab_size; ++v) {
      double dot = 0;
      for (int64_t i = 0; i < c.hidden_size; ++i) {
        const float h = hidden[static_cast<size_t>(4 * c.hidden_size + i)];
        dot += static_cast<double>(dtype == DType::bf16 ? to_float(to_bf16(h)) : h) * head[static_cast<size_t>(v * c.hidden_size + i)];
      }
      EXPECT_NEAR(plain[static_cast<size_t>(4 * c.vocab_size + v)], dot, 1e-5);
    }
  }
}

TEST("transformer: ids outside the vocabulary and positions outside the context are refused") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  EXPECT_ERROR(hidden_rows(m, sequence({1, 61}), {0}), ErrorCode::invalid_argument, "token id 61 is outside the vocabulary of 61");
  EXPECT_ERROR(hidden_rows(m, sequence({-1}), {0}), ErrorCode::invalid_argument, "token id -1");
  EXPECT_ERROR(hidden_rows(m, sequence(std::vector<int32_t>(129, 1)), {0}), ErrorCode::invalid_argument, "context of 128");
  EXPECT_EQ(hidden_rows(m, sequence(std::vector<int32_t>(128, 1)), {127}).size(), 48u);
}
