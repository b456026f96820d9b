// Scoring: the log-softmax it stands for, and that micro-batches leave no trace in its bits.
#include <algorithm>

#include "test/check.h"
#include "test/tiny_models.h"

using namespace rlhi;
using namespace rlhi::test;

namespace {

using Scores = std::vector<std::vector<std::vector<float>>>;

Scores score(TinyModel& m, const std::vector<ScoreTree>& trees, int64_t budget) {
  return score_trees(m.transformer, trees, budget, m.ops(), m.handle());
}

std::vector<ScoreTree> random_trees(uint64_t seed, size_t n, int64_t vocab) {
  Numbers numbers(seed);
  std::vector<ScoreTree> trees(n);
  for (ScoreTree& t : trees) {
    t.prompt = random_ids(numbers, numbers.integer(1, 30), vocab);
    for (int64_t c = numbers.integer(0, 5); c > 0; --c) t.continuations.push_back(random_ids(numbers, numbers.integer(1, 25), vocab));
  }
  return trees;
}

}  // namespace

TEST("score: each token's log-softmax of the logits that the tokens before it give") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  const ModelConfig& c = m.weights.config();
  const ScoreTree tree{{5, 9, 2}, {{7, 1, 60, 3}, {8}}};
  const Scores scores = score(m, {tree}, 1000);
  for (size_t k = 0; k < tree.continuations.size(); ++k) {
    std::vector<int32_t> ids = tree.prompt;
    for (size_t i = 0; i < tree.continuations[k].size(); ++i) {
      TreePacker packer;
      packer.add_tree(ids, {});
      const DeviceMatrix row(m.ops(), m.handle(), DType::f32, 1, c.hidden_size), at_row(m.ops(), m.handle(), DType::f32, 1, c.vocab_size);
      m.transformer.forward_rows(packer.take(), {static_cast<int32_t>(ids.size()) - 1}, row.tensor());
      m.transformer.logits(row.tensor(), at_row.tensor());
      const std::vector<float> logits = at_row.floats();
      double total = 0;
      for (const float l : logits) total += std::exp(static_cast<double>(l));
      EXPECT_NEAR(scores[0][k][i], logits[static_cast<size_t>(tree.continuations[k][i])] - std::log(total), 1e-5);
      ids.push_back(tree.continuations[k][i]);
    }
  }
}

TEST("score: the same bits at any token budget, packed or not, on every backend") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      TinyModel m(tiny_config(Architecture::qwen3), dtype, backend);
      const std::vector<ScoreTree> trees = random_trees(11, 9, m.weights.config().vocab_size);
      const Scores whole = score(m, trees, 100000);
      EXPECT_EQ(whole.size(), trees.size());
      for (size_t t = 0; t < trees.size(); ++t) EXPECT_EQ(whole[t].size(), trees[t].continuations.size());
      for (const int64_t budget : {1, 17, 40, 133}) EXPECT(score(m, trees, budget) == whole);
      for (size_t t = 0; t < trees.size(); ++t) EXPECT(score(m, {trees[t]}, 64)[0] == whole[t]);
      m.transformer.pack();
      EXPECT(score(m, trees, 100) == whole);
    }
  }
}

// Prompts of a system message and some questions, answers of some of them: everything begins as something else does.
std::vector<ScoreTree> trees_that_begin_alike(int64_t vocab) {
  Numbers numbers(5);
  const auto beginning = random_ids(numbers, 150, vocab), longer = random_ids(numbers, 70, vocab);
  std::vector<ScoreTree> trees(12);
  for (size_t t = 0; t < trees.size(); ++t) {
    std::vector<int32_t>& prompt = trees[t].prompt;
    prompt = beginning;
    if (t % 2 == 0) prompt.insert(prompt.end(), longer.begin(), longer.end());
    if (t % 3 != 0) for (const int32_t id : random_ids(numbers, numbers.integer(1, 90), vocab)) prompt.push_back(id);
    for (int64_t c = numbers.integer(1, 3); c > 0; --c) trees[t].continuations.push_back(random_ids(numbers, numbers.integer(1, 9), vocab));
  }
  trees[3].prompt.resize(128);                 // ends where a block does: its last row must be its own
  return trees;
}

TEST("score: prompts that begin alike have the bits they have alone, on every backend") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Architecture architecture : {Architecture::llama, Architecture::mistral}) {
        ModelConfig config = tiny_config(architecture);
        config.max_position = 512;
        TinyModel m(config, dtype, backend);
        const std::vector<ScoreTree> trees = trees_that_begin_alike(m.weights.config().vocab_size);
        Scores alone;
        for (const ScoreTree& tree : trees) alone.push_back(score(m, {tree}, 1000)[0]);
        for (const int64_t budget : {1, 260, 500, 100000}) EXPECT(score(m, trees, budget) == alone);
      }
    }
  }
}

TEST("tree packer: blocks that prompts share have their rows once, but for a prompt's last token") {
  std::vector<int32_t> a(200), b(200), c(128);
  for (size_t i = 0; i < 200; ++i) a[i] = b[i] = static_cast<int32_t>(i);
  for (size_t i = 0; i < 128; ++i) c[i] = static_cast<int32_t>(i);
  b[130] = 7;                                  // the third block differs
  TreePacker packer(true);
  packer.add_tree(a, {{1, 2}});
  EXPECT_EQ(packer.size(), 201);
  EXPECT_EQ(packer.prompt_rows(b), 200 - 128);
  packer.add_tree(b, {{1}});
  EXPECT_EQ(packer.size(), 201 + 72);
  EXPECT_EQ(packer.prompt_rows(c), 64);
  EXPECT_EQ(packer.prompt_rows(a), 200 - 192);
  packer.take();
  EXPECT_EQ(packer.prompt_rows(a), 200);
  TreePacker apart;
  apart.add_tree(a, {});
  EXPECT_EQ(apart.prompt_rows(a), 200);
}

TEST("score: bad trees and budgets are refused by name, an abort is heeded") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  EXPECT_ERROR(score(m, {{{1}, {{2}}}, {{}, {{2}}}}, 100), ErrorCode::invalid_argument, "tree 1: a prompt needs");
  EXPECT_ERROR(score(m, {{{1}, {{2}, {}}}}, 100), ErrorCode::invalid_argument, "tree 0: continuation 1 is empty");
  EXPECT_ERROR(score(m, {{{1}, {{61}}}}, 100), ErrorCode::invalid_argument, "token id 61");
  EXPECT_ERROR(score(m, {{{1}, {{2}}}}, 0), ErrorCode::invalid_argument, "token budget above 0");
  const std::atomic<bool> abort{true};
  EXPECT_ERROR(score_trees(m.transformer, {{{1}, {{2}}}}, 100, m.ops(), m.handle(), &abort), ErrorCode::aborted, "aborted");
  EXPECT_EQ(score(m, {}, 100).size(), 0u);
}
