// One run of generation: requests are checked, the cache is planned, then forward, logits, choice, until all have ended.
#include "infer/generator.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/random.h"
#include "infer/scheduler.h"
#include "ops/device_buffer.h"

namespace rlhi {
namespace {

constexpr int64_t kRunsRemembered = 4;  // room for beginnings is that of the prompts of so many runs like this one, if that is less
constexpr int64_t kLogitRows = 64;  // logits are computed for so many samples at a time
constexpr uint64_t kSamplingStream = 1;

void check_request(const GenerateRequest& r, size_t index, const ModelConfig& config, bool has_token_bytes) {
  const auto need = [index](bool ok, const char* field, const auto& expected, const auto& found) {
    check(ok, ErrorCode::invalid_argument, "request ", index, ": ", field, ": expected ", expected, ", found ", found);
  };
  need(!r.prompt.empty(), "prompt", "at least one token", "none");
  const std::string ids = concat("ids in [0, ", config.vocab_size, ")");
  for (const int32_t id : r.prompt) need(id >= 0 && id < config.vocab_size, "prompt", ids, id);
  for (const int32_t id : r.stop_tokens) need(id >= 0 && id < config.vocab_size, "stop_tokens", ids, id);
  need(r.n >= 1, "n", "at least 1", r.n);
  need(r.max_new_tokens >= 1, "max_new_tokens", "at least 1", r.max_new_tokens);
  need(r.seeds.size() == static_cast<size_t>(r.n), "seeds", concat("one a sample (", r.n, ")"), r.seeds.size());
  const SamplingParams& s = r.sampling;
  need(std::isfinite(s.temperature) && s.temperature >= 0, "temperature", "a finite number, 0 or above", s.temperature);
  need(s.top_p > 0 && s.top_p <= 1, "top_p", "a number in (0, 1]", s.top_p);
  need(s.top_k >= 0, "top_k", "0 (off) or above", s.top_k);
  need(s.min_p >= 0 && s.min_p < 1, "min_p", "a number in [0, 1)", s.min_p);
  for (const std::string& stop : r.stop_strings) need(!stop.empty(), "stop_strings", "strings that are not empty", "an empty one");
  need(r.stop_strings.empty() || has_token_bytes, "stop_strings", "the bytes of each token to be set before", "none");
  const int64_t context = static_cast<int64_t>(r.prompt.size()) + r.max_new_tokens;
  check(context <= config.max_position, ErrorCode::invalid_argument, "request ", index, ": ", r.prompt.size(), " prompt tokens and max_new_tokens ",
        r.max_new_tokens, " make ", context, ", more than the model's context of ", config.max_position);
}

int64_t prompt_blocks(const GenerateRequest& r) { return blocks_for(static_cast<int64_t>(r.prompt.size())); }
int64_t answer_blocks(const GenerateRequest& r) { return blocks_for(r.max_new_tokens - 1); }

struct CacheDemand {
  int64_t largest = 0;               // blocks of the longest prompt and answer: without them nothing runs
  int64_t wanted = 0;                // of the max_sequences most demanding samples together
  int64_t prompts = 0;               // of all prompts
};
CacheDemand cache_demand(const std::vector<GenerateRequest>& requests, const GeneratorOptions& options) {
  std::vector<int64_t> demands;
  int64_t largest = 0, prompts = 0;
  for (const GenerateRequest& r : requests) {
    prompts += prompt_blocks(r);
    largest = std::max(largest, prompt_blocks(r) + answer_blocks(r));
    for (int32_t i = 0; i < std::min<int64_t>(r.n, options.max_sequences); ++i) demands.push_back(answer_blocks(r) + (i == 0 ? prompt_blocks(r) : 0));
  }
  const auto slots = std::min(demands.size(), static_cast<size_t>(options.max_sequences));
  std::partial_sort(demands.begin(), demands.begin() + static_cast<std::ptrdiff_t>(slots), demands.end(), std::greater<int64_t>());
  int64_t wanted = 0;
  for (size_t i = 0; i < slots; ++i) wanted += demands[i];
  // Samples of a request whose first sample is not among the most demanding still need its prompt.
  return {largest, std::max(wanted, largest), prompts};
}

// What is wanted and room for beginnings, but no more than memory allows.
int64_t plan_cache_rows(const CacheDemand& demand, const GeneratorOptions& options, const ModelConfig& config, DType dtype, int64_t available) {
  const int64_t largest = demand.largest;
  const auto block_bytes = static_cast<int64_t>(KvCache::bytes(config, dtype, kRowBlock));
  const int64_t wanted = demand.wanted + std::min(options.prefix_cache_bytes / block_bytes, kRunsRemembered * demand.prompts);
  int64_t limit = options.memory_limit_bytes > 0 ? options.memory_limit_bytes : available / 2;
  if (limit <= 0) limit = wanted * block_bytes;
  const int64_t blocks = options.cache_rows > 0 ? options.cache_rows / kRowBlock : std::min(wanted, limit / block_bytes);
  check(blocks >= largest, ErrorCode::out_of_memory, "generation needs a key/value cache of at least ", largest * kRowBlock, " rows (",
        largest * block_bytes, " bytes) for the longest prompt and answer, but ",
        options.cache_rows > 0 ? concat("cache_rows is ", options.cache_rows) : concat("only ", limit, " bytes may be used"),
        "; lower max_new_tokens or free memory");
  return blocks * kRowBlock;
}

}  // namespace

ops::TokenChoice choice_of(const SamplingParams& params, uint64_t seed, uint64_t index, int32_t row) {
  ops::TokenChoice choice;
  choice.row = row;
  choice.temperature = params.temperature, choice.top_k = params.top_k, choice.top_p = params.top_p, choice.min_p = params.min_p;
  const PhiloxBlock random = philox(seed, kSamplingStream, index);
  choice.uniform = uniform_double(random[0], random[1]);
  return choice;
}

// Keys and values, who owns their rows, and the weights they were computed by.
struct Cache {
  Cache(const ModelConfig& config, DType dtype, int64_t rows, uint64_t version, const ops::Table& ops, ops::Backend* backend)
      : values(config, dtype, rows, ops, backend), blocks(rows), weights_version(version) {}
  KvCache values;
  RowBlocks blocks;
  uint64_t weights_version;
};

struct Generator::Impl {
  Transformer& transformer;
  GeneratorOptions options;
  const ops::Table& ops;
  ops::Backend* backend;
  std::vector<int64_t> byte_offsets;
  std::vector<uint8_t> bytes;
  std::unique_ptr<Cache> cache = nullptr;  // of the run before, all of its blocks free or idle

  // The kept cache where it is large enough and of these weights; else a new one.
  std::unique_ptr<Cache> cache_for(const std::vector<GenerateRequest>& requests) {
    const CacheDemand demand = cache_demand(requests, options);
    const uint64_t version = transformer.weights_version();
    if (cache && cache->weights_version == version && cache->blocks.total() >= demand.wanted) return std::move(cache);
    cache.reset();
    const ModelConfig& config = transformer.config();
    const DType dtype = transformer.weights().dtype();
    return std::make_unique<Cache>(config, dtype, plan_cache_rows(demand, options, config, dtype, ops.available_bytes(backend)), version, ops, backend);
  }
  void keep(std::unique_ptr<Cache> used) {
    const auto bytes = static_cast<int64_t>(KvCache::bytes(transformer.config(), transformer.weights().dtype(), used->values.rows()));
    if (bytes <= options.kept_cache_bytes) cache = std::move(used);
  }

  std::string_view token_bytes(int32_t token) const {
    const auto t = static_cast<size_t>(token);
    return {reinterpret_cast<const char*>(bytes.data()) + byte_offsets[t], static_cast<size_t>(byte_offsets[t + 1] - byte_offsets[t])};
  }
};

namespace {

// What one run owns: schedule, and the rows on their way from hidden state to token.
class Run {
 public:
  Run(Transformer& transformer, const GeneratorOptions& options, const ops::Table& ops, ops::Backend* backend, Cache& cache,
      const std::vector<GenerateRequest>& requests, Scheduler::TokenBytes token_bytes)
      : transformer_(transformer), options_(options), ops_(ops), backend_(backend), cache_(cache.values), schedule_(requests, cache.blocks, options.max_sequences, std::move(token_bytes)) {
    const ModelConfig& config = transformer.config();
    const size_t hidden = static_cast<size_t>(options.max_sequences * config.hidden_size) * sizeof(float);
    hidden_buffer_ = DeviceBuffer(ops, backend, hidden, "hidden rows of generation");
    const int64_t rows = std::min<int64_t>(kLogitRows, options.max_sequences);
    logits_buffer_ = DeviceBuffer(ops, backend, static_cast<size_t>(rows * config.vocab_size) * sizeof(float), "logits of generation");
  }

  bool done() const { return schedule_.done(); }

  // One forward and one token more for every sample whose prompt is read.
  void step(const std::function<void(GenerateResult&&)>& on_result, const std::function<void(int64_t, int32_t, int32_t)>& on_token) {
    schedule_.admit();
    // Each row of hidden state predicts for at least one running sample, so there are at most max_sequences of them.
    std::vector<std::vector<Sample*>> next = hidden_rows();
    for (size_t begin = 0; begin < next.size(); begin += kLogitRows) {
      const size_t end = std::min(next.size(), begin + kLogitRows);
      const Tensor logits(logits_buffer_.data(), DType::f32, static_cast<int64_t>(end - begin), transformer_.config().vocab_size);
      transformer_.logits(hidden(static_cast<int64_t>(begin), logits.rows), logits);
      std::vector<Sample*> samples;
      std::vector<ops::TokenChoice> choices;
      for (size_t row = begin; row < end; ++row)
        for (Sample* sample : next[row]) samples.push_back(sample), choices.push_back(next_choice(*sample, static_cast<int32_t>(row - begin)));
      std::vector<ops::ChosenToken> chosen(choices.size());
      ops_.choose_tokens(backend_, logits, choices.data(), static_cast<int64_t>(choices.size()), chosen.data());
      for (size_t i = 0; i < samples.size(); ++i) accept(*samples[i], chosen[i], on_result, on_token);
    }
    schedule_.drop_ended();
  }

 private:
  Tensor hidden(int64_t begin, int64_t rows) const {
    return Tensor(hidden_buffer_.data(), DType::f32, options_.max_sequences, transformer_.config().hidden_size).row_range(begin, rows);
  }

  // Runs the forward; returns for each row of hidden state the samples whose next token it predicts.
  std::vector<std::vector<Sample*>> hidden_rows() {
    const auto late = schedule_.late_starters();
    ForwardBatch batch = schedule_.next_forward(options_.max_prefill_tokens);
    auto rows = static_cast<int64_t>(batch.next.size());
    if (batch.tokens.size() > 0) transformer_.forward_cached(batch.tokens, batch.cache_rows, cache_, batch.output_rows, hidden(0, rows));
    for (size_t i = 0; i < batch.next.size(); ++i) {
      Prompt* prompt = batch.prompts_read[i];
      if (!prompt || prompt->started == prompt->params->n) continue;
      prompt->last_hidden.resize(static_cast<size_t>(transformer_.config().hidden_size));
      ops_.download(backend_, prompt->last_hidden.data(), hidden(static_cast<int64_t>(i), 1).data, prompt->last_hidden.size() * sizeof(float));
    }
    for (const auto& [prompt, samples] : late) {
      ops_.upload(backend_, hidden(rows++, 1).data, prompt->last_hidden.data(), prompt->last_hidden.size() * sizeof(float));
      batch.next.push_back(samples);
    }
    return std::move(batch.next);
  }

  static ops::TokenChoice next_choice(const Sample& sample, int32_t row) {
    const GenerateRequest& request = *sample.prompt->params;
    return choice_of(request.sampling, request.seeds[static_cast<size_t>(sample.result.sample)], sample.result.token_ids.size(), row);
  }
  void accept(Sample& sample, const ops::ChosenToken& token, const std::function<void(GenerateResult&&)>& on_result,
              const std::function<void(int64_t, int32_t, int32_t)>& on_token) {
    const int64_t request = sample.result.request;
    const int32_t index = sample.result.sample;
    const bool ended = schedule_.accept(sample, token);
    if (on_token) on_token(request, index, token.id);
    if (ended) on_result(std::move(sample.result));
  }

  Transformer& transformer_;
  const GeneratorOptions& options_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  KvCache& cache_;
  Scheduler schedule_;
  DeviceBuffer hidden_buffer_, logits_buffer_;
};

}  // namespace

Generator::Generator(Transformer& transformer, const GeneratorOptions& options, const ops::Table& ops, ops::Backend* backend)
    : impl_(new Impl{transformer, options, ops, backend, {}, {}}) {
  check(options.max_sequences >= 1, ErrorCode::invalid_argument, "max_sequences: expected at least 1, found ", options.max_sequences);
  check(options.max_prefill_tokens >= 1, ErrorCode::invalid_argument, "max_prefill_tokens: expected at least 1, found ", options.max_prefill_tokens);
}

Generator::~Generator() = default;

void check_token_bytes(const std::vector<int64_t>& offsets, const std::vector<uint8_t>& bytes, int64_t vocab_size) {
  check(static_cast<int64_t>(offsets.size()) == vocab_size + 1, ErrorCode::invalid_argument, "token bytes: expected ", vocab_size + 1,
        " offsets, found ", offsets.size());
  check(offsets.front() >= 0 && offsets.back() <= static_cast<int64_t>(bytes.size()), ErrorCode::invalid_argument,
        "token bytes: expected offsets within ", bytes.size(), " bytes, found ", offsets.front(), " to ", offsets.back());
  const auto fall = std::is_sorted_until(offsets.begin(), offsets.end());
  check(fall == offsets.end(), ErrorCode::invalid_argument, "token bytes: expected ascending offsets, found a lower one at ", fall - offsets.begin());
}

void Generator::set_token_bytes(std::vector<int64_t> offsets, std::vector<uint8_t> bytes) {
  check_token_bytes(offsets, bytes, impl_->transformer.config().vocab_size);
  impl_->byte_offsets = std::move(offsets);
  impl_->bytes = std::move(bytes);
}

void Generator::run(const std::vector<GenerateRequest>& requests, const std::function<void(GenerateResult&&)>& on_result,
                    const std::function<void(int64_t, int32_t, int32_t)>& on_token, const std::atomic<bool>* abort) {
  Impl& m = *impl_;
  for (size_t i = 0; i < requests.size(); ++i) check_request(requests[i], i, m.transformer.config(), !m.byte_offsets.empty());
  if (requests.empty()) return;
  std::unique_ptr<Cache> cache = m.cache_for(requests);  // given up with whatever ends the run early
  Run run(m.transformer, m.options, m.ops, m.backend, *cache, requests, [&m](int32_t token) { return m.token_bytes(token); });
  while (!run.done()) {
    if (abort && abort->load()) fail(ErrorCode::aborted, "generation was aborted");
    run.step(on_result, on_token);
  }
  m.keep(std::move(cache));
}

void Generator::release_memory() { impl_->cache.reset(); }

}  // namespace rlhi
