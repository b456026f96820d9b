// Arrow columns of token ids, checked before any arithmetic and copied at once into plain structs.
#pragma once
#include <vector>

#include "js.h"
#include "train/trainer.h"

namespace rlhi::bindings {

// What ids and lengths are checked against.
struct TokenLimits {
  int64_t vocab_size = 0, max_position = 0;
};

// The first `rows` lists of a ListColumn. Offsets may begin above 0 and both buffers may be longer than needed. Throws
// invalid_argument with column, row, expected and found.
std::vector<std::vector<int32_t>> read_lists(Napi::Value column, const std::string& name, int64_t rows, const TokenLimits& limits);

// A PairBatch, at least one row. References are required where the loss needs them.
std::vector<Pair> read_pairs(Napi::Value batch, const TokenLimits& limits, bool needs_references);

// A ScoreBatch: trees of the prompts that have continuations, in order.
std::vector<ScoreTree> read_score_batch(Napi::Value batch, const TokenLimits& limits);

}  // namespace rlhi::bindings
