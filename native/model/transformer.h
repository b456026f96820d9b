// The transformer's forward and backward, written once against ops.h.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace rlhi {

// One flat row of tokens with the tree that says who sees whom (see ops.h, QuerySegment).
struct PackedTokens {
  std::vector<int32_t> ids, positions;         // [T]
  std::vector<ops::QuerySegment> segments;
  std::vector<ops::KeySpan> spans;
  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// Builds prefix trees. A tree is one prompt with any number of continuations (two for a pair).
// Returns for each continuation the rows whose hidden state predicts its tokens: the prompt's last row, then its own rows.
// A continuation's last token predicts nothing, so it has no row: length - 1 rows a continuation, none for a single token.
//
// Where beginnings are shared, the blocks of kKeyBlock tokens with which a prompt begins as an earlier one of the same packing
// did are that one's rows; its last token always has a row of its own. The bits are those of the whole prompt. For forwards
// only: a shared row's gradient would sum over trees in an order that depends on them.
class TreePacker {
 public:
  struct Continuation {
    std::vector<int32_t> predictor_rows;       // [length of the continuation]
  };
  explicit TreePacker(bool share_beginnings = false) : share_beginnings_(share_beginnings) {}
  // Throws invalid_argument for an empty prompt or an empty continuation.
  std::vector<Continuation> add_tree(const std::vector<int32_t>& prompt, const std::vector<std::vector<int32_t>>& continuations);
  // Rows that the prompt would add by itself now.
  int64_t prompt_rows(const std::vector<int32_t>& prompt) const;
  PackedTokens take();
  int64_t size() const { return packed_.size(); }

 private:
  // The row run of the block before (-1: none) and a block's tokens, to the block's first row.
  using BlockKey = std::pair<int32_t, std::vector<int32_t>>;
  std::vector<ops::KeySpan> beginning(const std::vector<int32_t>& prompt) const;
  void remember(const std::vector<int32_t>& prompt, const std::vector<ops::KeySpan>& spans);

  bool share_beginnings_;
  PackedTokens packed_;
  std::map<BlockKey, int32_t> blocks_;
};

// Keys and values of past tokens, one slab of `rows` a layer. Who owns which rows is the caller's business (infer/).
class KvCache {
 public:
  KvCache(const ModelConfig& config, DType dtype, int64_t rows, const ops::Table& ops, ops::Backend* backend);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  int64_t rows() const { return rows_; }
  static size_t bytes(const ModelConfig& config, DType dtype, int64_t rows);
  Tensor kv(int64_t layer) const;              // [rows, 2*G*K]: keys, then values
  Tensor k(int64_t layer) const;               // [rows, G*K]
  Tensor v(int64_t layer) const;

 private:
  ModelConfig config_;
  DType dtype_;
  int64_t rows_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  void* data_ = nullptr;
};

// What training's backward computes again instead of the forward keeping it (activations.h has the table).
enum class Recompute {
  none,                                        // keeps all: the fastest; norms' outputs are those of f32 rows, so the last bits differ
  norms,                                       // norms' and SwiGLU's outputs
  layers,                                      // whole layers from their inputs: about a quarter more time, the bits of `norms`
};
const char* recompute_name(Recompute level);   // "none", "norms", "layers"
Recompute recompute_from_name(const std::string& name);  // throws invalid_argument

class Transformer {
 public:
  Transformer(const Weights& weights, const ops::Table& ops, ops::Backend* backend);
  ~Transformer();

  const ModelConfig& config() const;
  const Weights& weights() const;

  // Packs all matrices now (generation, scoring: pays when many calls follow), unless the backend reads weights as they are.
  // weights_changed() drops the packs.
  void pack();
  void weights_changed();
  uint64_t weights_version() const;            // another one after every change: what was computed before no longer holds
  // Frees packs and scratch that generation and scoring left: before a training, whose plan does not count them.
  void release_inference_memory();
  size_t packed_bytes() const;                 // what pack() takes
  const ops::PackedWeight* packed_head() const;  // null unless packed

  // ---- inference: nothing is kept for a backward ---------------------------------------------------------------------
  // New tokens' keys and values are written to cache rows cache_rows[T]; spans name cache rows. hidden: the rows `output_rows`
  // of the final-norm output, [output_rows.size(), D], f32 or the model dtype. Scratch grows as needed and is reused.
  // Throws invalid_argument for a token id outside the vocabulary or a position outside the context.
  void forward_cached(const PackedTokens& tokens, const std::vector<int32_t>& cache_rows, KvCache& cache,
                      const std::vector<int32_t>& output_rows, Tensor hidden);
  // Without a cache (scoring): spans name rows of the batch itself. Same output.
  void forward_rows(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Tensor hidden);
  // logits [n, V] f32 of final hidden rows [n, D]; f32 rows are rounded to the model dtype first, as training's are.
  void logits(Tensor hidden, Tensor logits);

  // ---- training ------------------------------------------------------------------------------------------------------
  struct Activations;                          // everything kept of one micro-batch, in one planned buffer
  std::unique_ptr<Activations> plan_activations(Recompute recompute, int64_t max_tokens, int64_t max_output_rows) const;
  // hidden [output_rows, D] (model dtype) lives in `activations` until the next forward.
  Tensor forward(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Activations& activations);
  // dhidden [output_rows, D] f32. The gradients of the layers' matrices are added to where `accumulate`, else written; those of vectors
  // and of the embedding are always added to. The head's is linear_logprob_backward's.
  void backward(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Activations& activations, Tensor dhidden,
                Weights& gradients, bool accumulate = true);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rlhi
