// Which tokens the next forward computes: one for every sample that decodes, and chunks of the prompts that are being read,
// under one token budget. Waiting samples enter as soon as a slot and cache blocks are free, in the order of their requests, those
// whose prompts begin alike one after the other; a finished sample's blocks are free at once.
#pragma once
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "infer/generator.h"
#include "infer/row_blocks.h"
#include "infer/stop_strings.h"

namespace rlhi {

// A request's prompt while any of its samples still has to start or reads its rows.
struct Prompt {
  int64_t request = 0;
  const GenerateRequest* params = nullptr;
  std::vector<int32_t> blocks;       // held until the last sample has started; every sample holds its own references
  int64_t read = 0;                  // tokens whose keys and values are in the cache, or in the forward under way
  int32_t started = 0;               // samples
  std::vector<float> last_hidden;    // [D], once the prompt is read: predicts the first token of every sample that starts later
  int64_t size() const { return static_cast<int64_t>(params->prompt.size()); }
};

struct Sample {
  std::shared_ptr<Prompt> prompt;
  std::vector<int32_t> prompt_blocks, answer_blocks;
  GenerateResult result;
  StopStringMatcher stop_strings;
  bool ended = false;
};

// One forward. Row i of its hidden output predicts the next token of next[i]: one decoding sample, or all samples that a
// prompt just read was waiting for.
struct ForwardBatch {
  PackedTokens tokens;
  std::vector<int32_t> cache_rows, output_rows;
  std::vector<std::vector<Sample*>> next;
  std::vector<Prompt*> prompts_read; // parallel to next; null for a decoding sample
};

class Scheduler {
 public:
  using TokenBytes = std::function<std::string_view(int32_t token)>;
  // blocks: the cache's, all of them free; they are again when all is done.
  Scheduler(const std::vector<GenerateRequest>& requests, RowBlocks& blocks, int64_t max_sequences, TokenBytes token_bytes);

  bool done() const { return samples_.empty() && next_request_ == requests_.size() && !opened_; }
  // Starts waiting samples while slots and blocks last.
  void admit();
  ForwardBatch next_forward(int64_t max_tokens);
  // Samples that started after their prompt was read and have no token yet, by prompt: they need no forward.
  std::vector<std::pair<Prompt*, std::vector<Sample*>>> late_starters();
  // Appends the token; true where the sample has ended (its result is complete, its blocks are free).
  bool accept(Sample& sample, ops::ChosenToken token);
  void drop_ended();

 private:
  bool start_sample();
  void open_request(size_t request, std::vector<int32_t> beginning, int64_t more_blocks);
  void add_decoding(ForwardBatch& batch, Sample& sample);
  void add_prompt_chunk(ForwardBatch& batch, const std::shared_ptr<Prompt>& prompt, int64_t max_tokens);

  const std::vector<GenerateRequest>& requests_;
  std::vector<size_t> order_;                    // of the requests
  RowBlocks& blocks_;
  int64_t max_sequences_;
  TokenBytes token_bytes_;
  size_t next_request_ = 0;                      // in order_
  std::shared_ptr<Prompt> opened_;               // the request whose samples are being started
  std::deque<std::shared_ptr<Prompt>> unread_;   // prompts not wholly read yet, in order
  std::list<Sample> samples_;                    // started and not ended; addresses stay
};

}  // namespace rlhi
