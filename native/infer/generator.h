// Continuous-batching generation: sequences finish and are replaced without waiting for the longest; n samples of a
// prompt share its cache rows.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace rlhi {

struct SamplingParams {
  double temperature = 1.0;        // 0: greedy
  double top_p = 1.0;              // (0, 1]
  int32_t top_k = 0;               // 0: off
  double min_p = 0;                // [0, 1)
};

// The choice of a sample's token number `index`, from 0, out of row `row` of the logits: its draw depends on the sample's seed and the index alone.
ops::TokenChoice choice_of(const SamplingParams& params, uint64_t seed, uint64_t index, int32_t row = 0);

struct GenerateRequest {
  std::vector<int32_t> prompt;     // at least one token
  int32_t n = 1;                   // samples of this prompt
  int32_t max_new_tokens = 256;
  SamplingParams sampling;
  std::vector<uint64_t> seeds;     // one a sample (size n)
  std::vector<int32_t> stop_tokens;       // generation ends with the stop token, which is part of token_ids
  std::vector<std::string> stop_strings;  // UTF-8 bytes; needs token_bytes
};

enum class FinishReason { stop_token, stop_string, length };

struct GenerateResult {
  int64_t request = 0;
  int32_t sample = 0;
  std::vector<int32_t> token_ids;
  std::vector<float> logps;        // of each token under the model's own distribution (temperature 1, no truncation)
  FinishReason finish = FinishReason::length;
};

struct GeneratorOptions {
  int32_t max_sequences = 64;      // decoded at once
  int64_t cache_rows = 0;          // 0: from max_sequences and the requests at hand, bounded by memory_limit_bytes
  int64_t memory_limit_bytes = 0;  // 0: half of what the machine has available
  // Room beside the running samples' for the keys and values of beginnings that may come again, in this run or the next.
  int64_t prefix_cache_bytes = int64_t{256} << 20;
  // The whole cache stays between runs up to this size: its pages need not be made again, and beginnings are found.
  int64_t kept_cache_bytes = int64_t{1} << 30;
  int64_t max_prefill_tokens = 2048;  // a forward's token budget
};

// Throws invalid_argument unless there are vocab_size + 1 ascending offsets into bytes.
void check_token_bytes(const std::vector<int64_t>& offsets, const std::vector<uint8_t>& bytes, int64_t vocab_size);

class Generator {
 public:
  Generator(Transformer& transformer, const GeneratorOptions& options, const ops::Table& ops, ops::Backend* backend);
  ~Generator();

  // The bytes each token stands for: offsets [V+1] into bytes. Needed for stop strings only.
  void set_token_bytes(std::vector<int64_t> offsets, std::vector<uint8_t> bytes);

  // Runs all requests to their end. on_result is called as each sample ends (any order); on_token, if given, for every token as
  // it is chosen (a terminal chat streams). `abort` is polled each forward: throws aborted; results reported stay valid.
  // token_ids hold every chosen token: the stop token, or the token that completes a stop string, is the last (so the answer's
  // bytes may go on past the stop string's end).
  // A sample's tokens depend on its prompt, parameters and seed only, not on its neighbours.
  // Beginnings of earlier runs' prompts are not read again while they are kept and the transformer's weights are the same.
  // Throws invalid_argument naming the request's index for bad values or when prompt + max_new_tokens exceeds the context.
  void run(const std::vector<GenerateRequest>& requests, const std::function<void(GenerateResult&&)>& on_result,
           const std::function<void(int64_t request, int32_t sample, int32_t token)>& on_token = {}, const std::atomic<bool>* abort = nullptr);

  // Frees the cache that was kept.
  void release_memory();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rlhi
