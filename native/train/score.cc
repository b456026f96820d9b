// Log-probabilities of given continuations, in micro-batches of prefix trees.
#include <algorithm>

#include "model/device_buffer.h"
#include "train/trainer.h"

namespace rlhi {
namespace {

// A tree, or the part of it (its prompt and some of its continuations) that fits the token budget.
struct Piece {
  size_t tree, first, count;
  int64_t tokens;              // rows it takes in a packed forward
};

std::vector<Piece> cut_into_pieces(const std::vector<ScoreTree>& trees, int64_t budget) {
  std::vector<Piece> pieces;
  for (size_t t = 0; t < trees.size(); ++t) {
    const auto& continuations = trees[t].continuations;
    check(!trees[t].prompt.empty(), ErrorCode::invalid_argument, "tree ", t, ": a prompt needs at least one token");
    const auto prompt = static_cast<int64_t>(trees[t].prompt.size());
    for (size_t c = 0; c < continuations.size(); ++c) {
      check(!continuations[c].empty(), ErrorCode::invalid_argument, "tree ", t, ": continuation ", c,
            " is empty; it needs at least one token");
      const int64_t rows = static_cast<int64_t>(continuations[c].size()) - 1;
      if (c > 0 && pieces.back().tokens + rows <= budget) {
        ++pieces.back().count;
        pieces.back().tokens += rows;
      } else {
        pieces.push_back({t, c, 1, prompt + rows});
      }
    }
  }
  return pieces;
}

// One forward's worth of pieces, with the rows and targets of their tokens in order.
struct ScoreBatch {
  PackedTokens tokens;
  std::vector<int32_t> rows, targets;
};

ScoreBatch pack_pieces(const std::vector<ScoreTree>& trees, const Piece* begin, const Piece* end) {
  TreePacker packer;
  ScoreBatch batch;
  for (const Piece* p = begin; p != end; ++p) {
    const auto first = trees[p->tree].continuations.begin() + static_cast<std::ptrdiff_t>(p->first);
    const std::vector<std::vector<int32_t>> continuations(first, first + static_cast<std::ptrdiff_t>(p->count));
    const auto placed = packer.add_tree(trees[p->tree].prompt, continuations);
    for (size_t c = 0; c < placed.size(); ++c) {
      batch.rows.insert(batch.rows.end(), placed[c].predictor_rows.begin(), placed[c].predictor_rows.end());
      batch.targets.insert(batch.targets.end(), continuations[c].begin(), continuations[c].end());
    }
  }
  batch.tokens = packer.take();
  return batch;
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
    std::vector<float> logps(static_cast<size_t>(n)), lse(static_cast<size_t>(n));
    args.w = transformer_.weights().head;
    args.packed_w = transformer_.packed_head();
    args.targets = batch.targets.data();
    args.logps = logps.data(), args.lse = lse.data();
    ops_.linear_logprob(backend_, args);
    return logps;
  }

 private:
  Transformer& transformer_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  DeviceBuffer buffer_;
};

}  // namespace

std::vector<std::vector<std::vector<float>>> score_trees(Transformer& transformer, const std::vector<ScoreTree>& trees,
                                                         int64_t max_tokens_per_micro_batch, const ops::Table& ops, ops::Backend* backend,
                                                         const std::atomic<bool>* abort) {
  check(max_tokens_per_micro_batch > 0, ErrorCode::invalid_argument, "expected a token budget above 0, found ", max_tokens_per_micro_batch);
  const std::vector<Piece> pieces = cut_into_pieces(trees, max_tokens_per_micro_batch);
  std::vector<std::vector<std::vector<float>>> result(trees.size());
  for (size_t t = 0; t < trees.size(); ++t) result[t].resize(trees[t].continuations.size());

  Scorer scorer(transformer, ops, backend);
  for (size_t begin = 0; begin < pieces.size();) {
    if (abort && abort->load()) fail(ErrorCode::aborted, "scoring was aborted");
    size_t end = begin + 1;
    for (int64_t tokens = pieces[begin].tokens; end < pieces.size() && tokens + pieces[end].tokens <= max_tokens_per_micro_batch; ++end)
      tokens += pieces[end].tokens;
    const std::vector<float> logps = scorer.logps(pack_pieces(trees, pieces.data() + begin, pieces.data() + end));
    auto at = logps.begin();
    for (size_t p = begin; p < end; ++p) {
      for (size_t c = pieces[p].first; c < pieces[p].first + pieces[p].count; ++c) {
        const auto length = static_cast<std::ptrdiff_t>(trees[pieces[p].tree].continuations[c].size());
        result[pieces[p].tree][c].assign(at, at + length);
        at += length;
      }
    }
    begin = end;
  }
  return result;
}

}  // namespace rlhi
