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
      std::vector<float> hidden(static_cast<size_t>(c.hidden_size)), logits(static_cast<size_t>(c.vocab_size));
      const Tensor row(hidden.data(), DType::f32, 1, c.hidden_size);
      m.transformer.forward_rows(packer.take(), {static_cast<int32_t>(ids.size()) - 1}, row);
      m.transformer.logits(row, Tensor(logits.data(), DType::f32, 1, c.vocab_size));
      double total = 0;
      for (const float l : logits) total += std::exp(static_cast<double>(l));
      EXPECT_NEAR(scores[0][k][i], logits[static_cast<size_t>(tree.continuations[k][i])] - std::log(total), 1e-5);
      ids.push_back(tree.continuations[k][i]);
    }
  }
}

TEST("score: the same bits at any token budget, packed or not, on every instruction set") {
  for (const ops::CpuIsa isa : ops::available_isas()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      TinyModel m(tiny_config(Architecture::qwen3), dtype, isa);
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
