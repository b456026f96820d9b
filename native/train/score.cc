// Log-probabilities of given continuations, in micro-batches of prefix trees.
#include <algorithm>
#include <numeric>

#include "ops/device_buffer.h"
#include "train/trainer.h"

namespace rlhi {
namespace {

// Continuations [first, first + count) of a tree.
struct Piece {
  size_t tree, first, count;
};

// One forward's worth of pieces, with the rows and targets of their tokens in order.
struct ScoreBatch {
  std::vector<Piece> pieces;
  PackedTokens tokens;
  std::vector<int32_t> rows, targets;
};

int64_t rows_of(const std::vector<int32_t>& continuation) { return static_cast<int64_t>(continuation.size()) - 1; }

// Cuts trees into batches under a token budget. Trees are taken in the order of their prompts, so that those that begin alike
// come into the same batch, where what they share is computed once.
class Batcher {
 public:
  Batcher(const std::vector<ScoreTree>& trees, int64_t budget) : trees_(trees), budget_(budget), order_(trees.size()) {
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) { return trees[a].prompt < trees[b].prompt; });
  }

  // Empty when all is done.
  ScoreBatch next() {
    ScoreBatch batch;
    TreePacker packer(true);
    while (at_ < order_.size()) {
      const ScoreTree& tree = trees_[order_[at_]];
      const size_t count = fitting(tree, packer);
      if (count == 0 && first_ < tree.continuations.size()) break;
      if (count > 0) add(batch, packer, tree, count);
      first_ += count;
      if (first_ < tree.continuations.size()) break;
      ++at_, first_ = 0;
    }
    batch.tokens = packer.take();
    return batch;
  }

 private:
  // How many of the tree's next continuations go into this batch. One that fits into a batch of its own is not cut; in an
  // empty batch there is room for at least one, whatever its length.
  size_t fitting(const ScoreTree& tree, const TreePacker& packer) const {
    int64_t rows = packer.size() + packer.prompt_rows(tree.prompt);
    size_t count = 0;
    while (first_ + count < tree.continuations.size()) {
      rows += rows_of(tree.continuations[first_ + count]);
      if (rows > budget_) break;
      ++count;
    }
    if (packer.size() == 0) return std::max<size_t>(count, first_ < tree.continuations.size() ? 1 : 0);
    return first_ + count == tree.continuations.size() ? count : 0;
  }

  void add(ScoreBatch& batch, TreePacker& packer, const ScoreTree& tree, size_t count) {
    const auto first = tree.continuations.begin() + static_cast<std::ptrdiff_t>(first_);
    const std::vector<std::vector<int32_t>> continuations(first, first + static_cast<std::ptrdiff_t>(count));
    const auto placed = packer.add_tree(tree.prompt, continuations);
    for (size_t c = 0; c < count; ++c) {
      batch.rows.insert(batch.rows.end(), placed[c].predictor_rows.begin(), placed[c].predictor_rows.end());
      batch.targets.insert(batch.targets.end(), continuations[c].begin(), continuations[c].end());
    }
    batch.pieces.push_back({order_[at_], first_, count});
  }

  const std::vector<ScoreTree>& trees_;
  int64_t budget_;
  std::vector<size_t> order_;
  size_t at_ = 0, first_ = 0;    // the next tree of order_, and its next continuation
};

void check_trees(const std::vector<ScoreTree>& trees) {
  for (size_t t = 0; t < trees.size(); ++t) {
    check(!trees[t].prompt.empty(), ErrorCode::invalid_argument, "tree ", t, ": a prompt needs at least one token");
    for (size_t c = 0; c < trees[t].continuations.size(); ++c)
      check(!trees[t].continuations[c].empty(), ErrorCode::invalid_argument, "tree ", t, ": continuation ", c,
            " is empty; it needs at least one token");
  }
}

class Scorer {
 public:
  Scorer(Transformer& transformer, const ops::Table& ops, ops::Backend* backend)
      : transformer_(transformer), ops_(ops), backend_(backend) {}

  std::vector<float> logps(const ScoreBatch& batch) {
    const ModelConfig& config = transformer_.config();
    const auto n = static_cast<int64_t>(batch.rows.size());
    for (const int32_t id : batch.targets)
      check(id >= 0 && id < config.vocab_size, ErrorCode::invalid_argument, "token id ", id, " is outside the vocabulary of ",
            config.vocab_size);
    const DType dtype = transformer_.weights().dtype();
    const Tensor shape(nullptr, dtype, n, config.hidden_size);
    if (static_cast<size_t>(shape.bytes()) > buffer_.bytes()) {
      buffer_.reset();
      buffer_ = DeviceBuffer(ops_, backend_, static_cast<size_t>(shape.bytes()), "hidden rows");
    }
    ops::LinearLogprobArgs args;
    args.h = Tensor(buffer_.data(), dtype, n, config.hidden_size);
    transformer_.forward_rows(batch.tokens, batch.rows, args.h);
    const size_t vector_bytes = static_cast<size_t>(n) * sizeof(float);
    if (2 * vector_bytes > vectors_.bytes()) {
      vectors_.reset();
      vectors_ = DeviceBuffer(ops_, backend_, 2 * vector_bytes, "log-probabilities");
    }
    std::vector<float> logps(static_cast<size_t>(n));
    args.w = transformer_.weights().head;
    args.packed_w = transformer_.packed_head();
    args.targets = batch.targets.data();
    args.logps = static_cast<float*>(vectors_.data()), args.lse = args.logps + n;
    ops_.linear_logprob(backend_, args);
    ops_.download(backend_, logps.data(), args.logps, vector_bytes);
    return logps;
  }

 private:
  Transformer& transformer_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  DeviceBuffer buffer_, vectors_;
};

}  // namespace

std::vector<std::vector<std::vector<float>>> score_trees(Transformer& transformer, const std::vector<ScoreTree>& trees,
                                                         int64_t max_tokens_per_micro_batch, const ops::Table& ops, ops::Backend* backend,
                                                         const std::atomic<bool>* abort) {
  check(max_tokens_per_micro_batch > 0, ErrorCode::invalid_argument, "expected a token budget above 0, found ", max_tokens_per_micro_batch);
  check_trees(trees);
  std::vector<std::vector<std::vector<float>>> result(trees.size());
  for (size_t t = 0; t < trees.size(); ++t) result[t].resize(trees[t].continuations.size());

  Scorer scorer(transformer, ops, backend);
  Batcher batcher(trees, max_tokens_per_micro_batch);
  for (ScoreBatch batch = batcher.next(); !batch.pieces.empty(); batch = batcher.next()) {
    if (abort && abort->load()) fail(ErrorCode::aborted, "scoring was aborted");
    const std::vector<float> logps = scorer.logps(batch);
    auto at = logps.begin();
    for (const Piece& piece : batch.pieces) {
      for (size_t c = piece.first; c < piece.first + piece.count; ++c) {
        const auto length = static_cast<std::ptrdiff_t>(trees[piece.tree].continuations[c].size());
        result[piece.tree][c].assign(at, at + length);
        at += length;
      }
    }
  }
  return result;
}

}  // namespace rlhi
