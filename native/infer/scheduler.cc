#include "infer/scheduler.h"

#include <algorithm>
#include <map>

namespace rlhi {
namespace {

int32_t row_of(const std::vector<int32_t>& blocks, int64_t at) {
  return static_cast<int32_t>(blocks[static_cast<size_t>(at / kRowBlock)] * kRowBlock + at % kRowBlock);
}

// The key spans of the first `length` tokens in `blocks`, whose first token is at `position`: one a block.
void add_spans(PackedTokens& tokens, const std::vector<int32_t>& blocks, int64_t length, int64_t position) {
  for (int64_t begin = 0; begin < length; begin += kRowBlock) {
    tokens.spans.push_back({row_of(blocks, begin), static_cast<int32_t>(std::min(kRowBlock, length - begin)), static_cast<int32_t>(position + begin)});
  }
}

// Requests whose first blocks are alike follow the first of them, sorted by their prompts: what they share is then in use or just read.
std::vector<size_t> order_of(const std::vector<GenerateRequest>& requests) {
  std::map<std::vector<int32_t>, size_t> groups;         // a first block, to the first request that has it
  std::vector<size_t> group(requests.size()), order(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    order[i] = group[i] = i;
    const std::vector<int32_t>& prompt = requests[i].prompt;
    if (static_cast<int64_t>(prompt.size()) > kRowBlock) group[i] = groups.try_emplace({prompt.begin(), prompt.begin() + kRowBlock}, i).first->second;
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return group[a] != group[b] ? group[a] < group[b] : requests[a].prompt < requests[b].prompt;
  });
  return order;
}

}  // namespace

Scheduler::Scheduler(const std::vector<GenerateRequest>& requests, RowBlocks& blocks, int64_t max_sequences, TokenBytes token_bytes)
    : requests_(requests), order_(order_of(requests)), blocks_(blocks), max_sequences_(max_sequences), token_bytes_(std::move(token_bytes)) {}

void Scheduler::admit() {
  while (static_cast<int64_t>(samples_.size()) < max_sequences_ && start_sample()) {
  }
}

// Takes a sample's blocks for its longest possible answer, so that nothing that runs can ever be short of rows.
bool Scheduler::start_sample() {
  if (!opened_ && next_request_ == requests_.size()) return false;
  const GenerateRequest& request = opened_ ? *opened_->params : requests_[order_[next_request_]];
  // The last token of an answer is never fed back, so it needs no row.
  const int64_t answer_blocks = blocks_for(request.max_new_tokens - 1);
  std::vector<int32_t> beginning;
  int64_t prompt_blocks = 0, found_idle = 0;
  if (!opened_) {
    beginning = blocks_.find_beginning(request.prompt);
    prompt_blocks = blocks_for(static_cast<int64_t>(request.prompt.size())) - static_cast<int64_t>(beginning.size());
    found_idle = blocks_.idle_among(beginning);
  }
  if (blocks_.free() - found_idle < answer_blocks + prompt_blocks) return false;
  if (!opened_) open_request(order_[next_request_++], std::move(beginning), prompt_blocks);
  Sample& sample = samples_.emplace_back();
  sample.prompt = opened_;
  sample.prompt_blocks = opened_->blocks;
  blocks_.share(sample.prompt_blocks);
  sample.answer_blocks = blocks_.take(answer_blocks);
  sample.result.request = opened_->request;
  sample.result.sample = opened_->started++;
  sample.stop_strings = StopStringMatcher(request.stop_strings);
  if (opened_->started == request.n) {
    blocks_.release(opened_->blocks);
    opened_.reset();
  }
  return true;
}

// A beginning shared with an earlier prompt is not read again: prompts are read in order, so its rows are there by then, or
// are written by the same forward (each layer writes all new rows before it attends to any).
void Scheduler::open_request(size_t index, std::vector<int32_t> beginning, int64_t more_blocks) {
  const GenerateRequest& request = requests_[index];
  opened_ = std::make_shared<Prompt>();
  opened_->request = static_cast<int64_t>(index);
  opened_->params = &request;
  opened_->read = static_cast<int64_t>(beginning.size()) * kRowBlock;
  blocks_.share(beginning);
  const std::vector<int32_t> rest = blocks_.take(more_blocks);
  opened_->blocks = std::move(beginning);
  opened_->blocks.insert(opened_->blocks.end(), rest.begin(), rest.end());
  blocks_.remember(request.prompt, opened_->blocks);
  unread_.push_back(opened_);
}

ForwardBatch Scheduler::next_forward(int64_t max_tokens) {
  ForwardBatch batch;
  for (Sample& sample : samples_)
    if (!sample.result.token_ids.empty()) add_decoding(batch, sample);
  // Decoding samples never wait; prompts get what is left of the budget, and at least one block, so that they go on.
  bool first = true;
  while (!unread_.empty() && (first || batch.tokens.size() + kRowBlock <= max_tokens)) {
    add_prompt_chunk(batch, unread_.front(), max_tokens);
    if (unread_.front()->read < unread_.front()->size()) break;
    unread_.pop_front();
    first = false;
  }
  return batch;
}

void Scheduler::add_decoding(ForwardBatch& batch, Sample& sample) {
  PackedTokens& tokens = batch.tokens;
  const int64_t prompt = sample.prompt->size(), answered = static_cast<int64_t>(sample.result.token_ids.size());
  const auto row = static_cast<int32_t>(tokens.size()), position = static_cast<int32_t>(prompt + answered - 1);
  const auto first_span = static_cast<int32_t>(tokens.spans.size());
  tokens.ids.push_back(sample.result.token_ids.back());
  tokens.positions.push_back(position);
  add_spans(tokens, sample.prompt_blocks, prompt, 0);
  add_spans(tokens, sample.answer_blocks, answered, prompt);
  tokens.segments.push_back({row, 1, position, first_span, static_cast<int32_t>(tokens.spans.size()) - first_span});
  batch.cache_rows.push_back(row_of(sample.answer_blocks, answered - 1));
  batch.output_rows.push_back(row);
  batch.next.push_back({&sample});
  batch.prompts_read.push_back(nullptr);
}

// Whole blocks of the prompt, one query segment a block: what a token sees is cut in the same places whatever the chunks are.
void Scheduler::add_prompt_chunk(ForwardBatch& batch, const std::shared_ptr<Prompt>& prompt, int64_t max_tokens) {
  PackedTokens& tokens = batch.tokens;
  const std::vector<int32_t>* blocks = nullptr;
  std::vector<Sample*> waiting;
  for (Sample& sample : samples_) {
    if (sample.prompt != prompt) continue;
    blocks = &sample.prompt_blocks;
    waiting.push_back(&sample);
  }
  check(blocks != nullptr, ErrorCode::internal, "the prompt of request ", prompt->request, " has no sample");
  do {
    const int64_t begin = prompt->read, end = std::min(begin + kRowBlock, prompt->size());
    const auto row = static_cast<int32_t>(tokens.size()), first_span = static_cast<int32_t>(tokens.spans.size());
    for (int64_t at = begin; at < end; ++at) {
      tokens.ids.push_back(prompt->params->prompt[static_cast<size_t>(at)]);
      tokens.positions.push_back(static_cast<int32_t>(at));
      batch.cache_rows.push_back(row_of(*blocks, at));
    }
    add_spans(tokens, *blocks, end, 0);
    tokens.segments.push_back({row, static_cast<int32_t>(end - begin), static_cast<int32_t>(begin), first_span,
                               static_cast<int32_t>(tokens.spans.size()) - first_span});
    prompt->read = end;
  } while (prompt->read < prompt->size() && tokens.size() + kRowBlock <= max_tokens);
  if (prompt->read < prompt->size()) return;
  batch.output_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
  batch.next.push_back(std::move(waiting));
  batch.prompts_read.push_back(prompt.get());
}

std::vector<std::pair<Prompt*, std::vector<Sample*>>> Scheduler::late_starters() {
  std::vector<std::pair<Prompt*, std::vector<Sample*>>> late;
  for (Sample& sample : samples_) {
    Prompt* prompt = sample.prompt.get();
    if (!sample.result.token_ids.empty() || prompt->last_hidden.empty()) continue;
    if (late.empty() || late.back().first != prompt) late.push_back({prompt, {}});
    late.back().second.push_back(&sample);
  }
  return late;
}

bool Scheduler::accept(Sample& sample, ops::ChosenToken token) {
  const GenerateRequest& request = *sample.prompt->params;
  GenerateResult& result = sample.result;
  result.token_ids.push_back(token.id);
  result.logps.push_back(token.logp);
  sample.ended = true;
  if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token.id) != request.stop_tokens.end()) {
    result.finish = FinishReason::stop_token;
  } else if (!request.stop_strings.empty() && sample.stop_strings.append(token_bytes_(token.id))) {
    result.finish = FinishReason::stop_string;
  } else if (static_cast<int32_t>(result.token_ids.size()) == request.max_new_tokens) {
    result.finish = FinishReason::length;
  } else {
    sample.ended = false;
  }
  if (sample.ended) {
    blocks_.release(sample.answer_blocks);
    blocks_.release(sample.prompt_blocks);
  }
  return sample.ended;
}

void Scheduler::drop_ended() {
  samples_.remove_if([](const Sample& s) { return s.ended; });
}

}  // namespace rlhi
