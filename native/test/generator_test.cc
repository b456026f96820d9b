// Generation: equal to transformers' greedy continuations, and the same for a sample whatever runs beside it.
#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/mapped_file.h"
#include "infer/generator.h"
#include "infer/row_blocks.h"
#include "infer/stop_strings.h"
#include "io/json.h"
#include "test/check.h"
#include "test/tiny_models.h"

using namespace rlhi;
using namespace rlhi::test;
using io::Json;

namespace {

struct Outcome {
  std::vector<int32_t> ids;
  std::vector<float> logps;
  FinishReason finish;
  bool operator==(const Outcome&) const = default;
};
using Outcomes = std::map<std::pair<int64_t, int32_t>, Outcome>;

GeneratorOptions options_of(int32_t max_sequences, int64_t prefill = 2048, int64_t cache_rows = 0) {
  GeneratorOptions o;
  o.max_sequences = max_sequences, o.max_prefill_tokens = prefill, o.cache_rows = cache_rows;
  return o;
}

Outcomes generate(TinyModel& model, const std::vector<GenerateRequest>& requests, const GeneratorOptions& options = {}) {
  Generator generator(model.transformer, options, model.ops(), model.handle());
  Outcomes outcomes;
  generator.run(requests, [&](GenerateResult&& r) {
    const bool fresh = outcomes.emplace(std::pair(r.request, r.sample), Outcome{r.token_ids, r.logps, r.finish}).second;
    EXPECT(fresh);  // once a sample
    EXPECT_EQ(r.token_ids.size(), r.logps.size());
  });
  return outcomes;
}

GenerateRequest request_of(std::vector<int32_t> prompt, int32_t n, int32_t max_new_tokens, double temperature, uint64_t seed) {
  GenerateRequest r;
  r.prompt = std::move(prompt), r.n = n, r.max_new_tokens = max_new_tokens, r.sampling.temperature = temperature;
  for (int32_t i = 0; i < n; ++i) r.seeds.push_back(seed + static_cast<uint64_t>(i));
  return r;
}

// Prompts of one token to more than two cache blocks, greedy and sampled, one to three samples each.
std::vector<GenerateRequest> varied_requests(const ModelConfig& config, size_t n) {
  Numbers numbers(17);
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < n; ++i) {
    const int64_t length = i % 4 == 0 ? 1 : numbers.integer(2, i % 4 == 1 ? 20 : 100);
    requests.push_back(request_of(random_ids(numbers, length, config.vocab_size), static_cast<int32_t>(1 + i % 3), static_cast<int32_t>(numbers.integer(1, 28)),
                                  i % 5 == 0 ? 0.0 : 1.0, 100 * i));
  }
  return requests;
}

Outcomes alone(TinyModel& model, const std::vector<GenerateRequest>& requests) {
  Outcomes outcomes;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (int32_t s = 0; s < requests[i].n; ++s) {
      GenerateRequest one = requests[i];
      one.n = 1, one.seeds = {requests[i].seeds[static_cast<size_t>(s)]};
      outcomes[{static_cast<int64_t>(i), s}] = generate(model, {one}).at({0, 0});
    }
  }
  return outcomes;
}

std::vector<int32_t> ids_of(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.items()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

void check_greedy(const std::string& folder) {
  const ModelConfig config = load_config(folder + "/policy");
  const auto backend = open_backend();
  const auto weights = load_weights(folder + "/policy", config, DType::f32, backend->table(), backend->handle());
  Transformer transformer(*weights, backend->table(), backend->handle());
  const Json expected = Json::parse(read_text_file(folder + "/expected.json"), folder);
  const Json pairs = Json::parse(read_text_file(folder + "/pairs.json"), folder);
  const auto& greedy = expected.find("greedy_24")->items();
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < greedy.size(); ++i) requests.push_back(request_of(ids_of(*pairs.items()[i].find("prompt")), 1, 24, 0, 0));
  Generator generator(transformer, {}, backend->table(), backend->handle());
  size_t ended = 0;
  generator.run(requests, [&](GenerateResult&& r) {
    ++ended;
    expect(r.token_ids == ids_of(greedy[static_cast<size_t>(r.request)]), "greedy ids", __FILE__, __LINE__, concat(folder, ", request ", r.request));
  });
  EXPECT_EQ(ended, greedy.size());
}

}  // namespace

TEST("generator: greedy continuations equal transformers'") {
  std::vector<std::string> parents;
  if (!shared_dir().empty()) parents.push_back(shared_dir() + "/oracles/dpo");
  if (const char* more = std::getenv("RLHI_ORACLES")) parents.push_back(more);
  size_t checked = 0;
  for (const std::string& parent : parents) {
    if (!std::filesystem::is_directory(parent)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(parent)) {
      if (!std::filesystem::exists(entry.path() / "expected.json")) continue;
      check_greedy(entry.path().string());
      ++checked;
    }
  }
  if (checked == 0) skip("no oracles: neither ../shared/oracles/dpo (RLHI_SHARED) nor RLHI_ORACLES is there");
}

TEST("generator: log-probabilities equal those of scoring") {
  for (const Architecture architecture : all_architectures()) {
    TinyModel model(tiny_config(architecture), DType::f32);
    const auto requests = varied_requests(model.weights.config(), 6);
    std::vector<ScoreTree> trees;
    const Outcomes outcomes = generate(model, requests);
    for (const auto& [key, outcome] : outcomes) trees.push_back({requests[static_cast<size_t>(key.first)].prompt, {outcome.ids}});
    const auto scores = score_trees(model.transformer, trees, 4096, model.ops(), model.handle());
    size_t i = 0;
    for (const auto& [key, outcome] : outcomes) {
      for (size_t t = 0; t < outcome.ids.size(); ++t) EXPECT_NEAR(static_cast<double>(outcome.logps[t]), static_cast<double>(scores[i][0][t]), 2e-5);
      ++i;
    }
  }
}

TEST("generator: a sample alone and in a batch of others is the same to the bit") {
  for (const Architecture architecture : all_architectures()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      TinyModel model(tiny_config(architecture), dtype);
      const auto requests = varied_requests(model.weights.config(), 16);
      const Outcomes expected = alone(model, requests);
      EXPECT(generate(model, requests) == expected);
      EXPECT(generate(model, requests, options_of(3)) == expected);                    // fewer slots than samples
      EXPECT(generate(model, requests, options_of(64, 1)) == expected);                // prompts read a block at a time
      EXPECT(generate(model, requests, options_of(16, 128, 256)) == expected);         // a cache for hardly two
      model.transformer.pack();
      EXPECT(generate(model, requests) == expected);                                   // packed weights
    }
  }
}

TEST("generator: thread count does not change a sample") {
  const ModelConfig config = tiny_config(Architecture::llama);
  TinyModel one(config, DType::f32, default_backend(), 1, 1), three(config, DType::f32, default_backend(), 1, 3);
  const auto requests = varied_requests(config, 8);
  EXPECT(generate(one, requests) == generate(three, requests));
}

TEST("generator: samples of one prompt differ by seed and equal by seed") {
  TinyModel model(tiny_config(Architecture::qwen3), DType::f32);
  GenerateRequest r = request_of({5, 9, 3}, 4, 20, 1, 7);
  r.seeds = {1, 2, 1, 3};
  const Outcomes out = generate(model, {r}, options_of(2));  // the last two start after the prompt was read
  EXPECT_EQ(out.size(), size_t{4});
  EXPECT(out.at({0, 0}) == out.at({0, 2}));
  EXPECT(out.at({0, 0}).ids != out.at({0, 1}).ids);
  EXPECT(out.at({0, 1}).ids != out.at({0, 3}).ids);
}

TEST("generator: stop tokens end an answer and stay in it") {
  TinyModel model(tiny_config(Architecture::llama), DType::f32);
  GenerateRequest r = request_of({1, 2, 3}, 1, 30, 1, 4);
  const Outcome free = generate(model, {r}).at({0, 0});
  EXPECT(free.finish == FinishReason::length);
  EXPECT_EQ(free.ids.size(), size_t{30});
  r.stop_tokens = {free.ids[9], free.ids[12]};
  const auto first = std::find_first_of(free.ids.begin(), free.ids.end(), r.stop_tokens.begin(), r.stop_tokens.end());
  const Outcome stopped = generate(model, {r}).at({0, 0});
  EXPECT(stopped.finish == FinishReason::stop_token);
  EXPECT(stopped.ids == std::vector<int32_t>(free.ids.begin(), first + 1));
}

TEST("generator: stop strings are found across token boundaries") {
  TinyModel model(tiny_config(Architecture::llama), DType::f32);
  const int64_t vocab = model.weights.config().vocab_size;
  std::vector<int64_t> offsets = {0};
  std::vector<uint8_t> bytes;
  for (int64_t id = 0; id < vocab; ++id) {  // token 7 is "<7>"
    const std::string text = concat("<", id, ">");
    bytes.insert(bytes.end(), text.begin(), text.end());
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
  GenerateRequest r = request_of({1, 2, 3}, 1, 30, 1, 4);
  const std::vector<int32_t> ids = generate(model, {r}).at({0, 0}).ids;
  // From inside token 10 to inside token 12.
  r.stop_strings = {"never", concat(ids[10] % 10, "><", ids[11], "><")};
  Generator generator(model.transformer, {}, model.ops(), model.handle());
  EXPECT_ERROR(generator.run({r}, [](GenerateResult&&) {}), ErrorCode::invalid_argument, "request 0: stop_strings");
  generator.set_token_bytes(offsets, bytes);
  std::string text;
  size_t end = 0;
  while (text.find(r.stop_strings[1]) == std::string::npos) text += concat("<", ids[end++], ">");
  generator.run({r}, [&](GenerateResult&& result) {
    EXPECT(result.finish == FinishReason::stop_string);
    EXPECT(result.token_ids == std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(end)));
    EXPECT(end <= 13);
  });
}

TEST("generator: the stop string matcher sees every cut of a text") {
  const std::vector<std::string> stops = {"stop", "tt", "é"};
  const auto found_at = [&](const std::vector<std::string>& tokens) {
    StopStringMatcher matcher(stops);
    for (size_t i = 0; i < tokens.size(); ++i)
      if (matcher.append(tokens[i])) return static_cast<int>(i);
    return -1;
  };
  EXPECT_EQ(found_at({"a st", "", "op"}), 2);
  EXPECT_EQ(found_at({"s", "t", "o", "p"}), 3);
  EXPECT_EQ(found_at({"xstopx"}), 0);
  EXPECT_EQ(found_at({"st", "xop"}), -1);
  EXPECT_EQ(found_at({"t", "t"}), 1);
  EXPECT_EQ(found_at({"\xc3", "\xa9"}), 1);
  EXPECT_EQ(found_at({}), -1);
}

TEST("generator: every token is told as it is chosen") {
  TinyModel model(tiny_config(Architecture::qwen2), DType::f32);
  const auto requests = varied_requests(model.weights.config(), 5);
  Generator generator(model.transformer, options_of(4), model.ops(), model.handle());
  std::map<std::pair<int64_t, int32_t>, std::vector<int32_t>> told;
  generator.run(requests, [&](GenerateResult&& r) { EXPECT((told[{r.request, r.sample}] == r.token_ids)); },
                [&](int64_t request, int32_t sample, int32_t token) { told[{request, sample}].push_back(token); });
  EXPECT_EQ(told.size(), size_t{9});
}

TEST("generator: an abort ends the run within one forward, and the generator can be used again") {
  TinyModel model(tiny_config(Architecture::llama), DType::f32);
  Generator generator(model.transformer, {}, model.ops(), model.handle());
  std::atomic<bool> abort{false};
  int tokens = 0;
  const auto run = [&] {
    generator.run({request_of({3, 4}, 2, 60, 1, 1)}, [](GenerateResult&&) {}, [&](int64_t, int32_t, int32_t) { abort = ++tokens == 6; }, &abort);
  };
  EXPECT_ERROR(run(), ErrorCode::aborted, "aborted");
  EXPECT_EQ(tokens, 6);
  abort = false, tokens = -1000;
  run();
  EXPECT_EQ(tokens, -1000 + 120);
}

TEST("generator: bad requests are refused before anything runs, by their index") {
  TinyModel model(tiny_config(Architecture::llama), DType::f32);
  const GenerateRequest good = request_of({1, 2, 3}, 2, 5, 1, 0);
  const auto refused = [&](auto change, const char* text) {
    GenerateRequest bad = good;
    change(bad);
    EXPECT_ERROR(generate(model, {good, bad}), ErrorCode::invalid_argument, concat("request 1: ", text));
  };
  refused([](GenerateRequest& r) { r.prompt.clear(); }, "prompt");
  refused([](GenerateRequest& r) { r.prompt[1] = 61; }, "prompt: expected ids in [0, 61), found 61");
  refused([](GenerateRequest& r) { r.prompt[1] = -1; }, "prompt");
  refused([](GenerateRequest& r) { r.n = 0; }, "n:");
  refused([](GenerateRequest& r) { r.seeds.pop_back(); }, "seeds: expected one a sample (2), found 1");
  refused([](GenerateRequest& r) { r.max_new_tokens = 0; }, "max_new_tokens");
  refused([](GenerateRequest& r) { r.max_new_tokens = 126; }, "3 prompt tokens and max_new_tokens 126 make 129");
  refused([](GenerateRequest& r) { r.sampling.temperature = -1; }, "temperature");
  refused([](GenerateRequest& r) { r.sampling.temperature = NAN; }, "temperature");
  refused([](GenerateRequest& r) { r.sampling.top_p = 0; }, "top_p");
  refused([](GenerateRequest& r) { r.sampling.min_p = 1; }, "min_p");
  refused([](GenerateRequest& r) { r.stop_tokens = {61}; }, "stop_tokens");
  EXPECT_ERROR(generate(model, {request_of({1}, 1, 100, 0, 0)}, options_of(4, 2048, 64)), ErrorCode::out_of_memory, "at least 192 rows");
  EXPECT_EQ(generate(model, {}).size(), size_t{0});
}

TEST("generator: the context can be filled to its last position") {
  TinyModel model(tiny_config(Architecture::mistral), DType::f32);
  const Outcome full = generate(model, {request_of({1, 2, 3}, 1, 125, 1, 0)}).at({0, 0});
  EXPECT_EQ(full.ids.size(), size_t{125});
}

TEST("generator: prompts that begin alike share the beginning and change no sample") {
  ModelConfig config = tiny_config(Architecture::mistral);
  config.max_position = 400;
  TinyModel model(config, DType::f32);
  Numbers numbers(23);
  const std::vector<int32_t> common = random_ids(numbers, 2 * kRowBlock, config.vocab_size);
  std::vector<GenerateRequest> requests;
  for (const int64_t tail : {0, 1, 63, 64, 65, 100, 0, 7}) {
    std::vector<int32_t> prompt = common;
    const auto more = random_ids(numbers, tail, config.vocab_size);
    prompt.insert(prompt.end(), more.begin(), more.end());
    requests.push_back(request_of(prompt, 2, 20, 1, requests.size()));
  }
  requests.push_back(requests[5]);
  requests.push_back(request_of(std::vector<int32_t>(common.begin(), common.begin() + 70), 1, 20, 1, 5));
  requests.push_back(request_of(std::vector<int32_t>(common.begin() + 64, common.end()), 1, 20, 1, 5));  // the same tokens elsewhere
  const Outcomes expected = alone(model, requests);
  EXPECT(generate(model, requests) == expected);
  EXPECT(generate(model, requests, options_of(2)) == expected);
  EXPECT(generate(model, requests, options_of(3, 64)) == expected);
  EXPECT(generate(model, requests, options_of(8, 200, 6 * kRowBlock)) == expected);
}

// The rows that every forward's embedding is asked for.
int64_t rows_computed = 0;
void (*plain_embedding)(ops::Backend*, Tensor, Tensor, const int32_t*) = nullptr;
void counting_embedding(ops::Backend* b, Tensor out, Tensor table, const int32_t* ids) {
  rows_computed += out.rows;
  plain_embedding(b, out, table, ids);
}

TEST("generator: beginnings are read once for all requests and for the runs that follow, until the weights change") {
  ModelConfig config = tiny_config(Architecture::mistral);
  config.max_position = 400;
  TinyModel model(config, DType::f32);
  ops::Table counting = model.ops();
  plain_embedding = counting.embedding;
  counting.embedding = counting_embedding;
  Transformer transformer(model.weights, counting, model.handle());
  Generator generator(transformer, options_of(1), counting, model.handle());  // one sample after the other
  Numbers numbers(29);
  const std::vector<int32_t> common[2] = {random_ids(numbers, 2 * kRowBlock, config.vocab_size), random_ids(numbers, kRowBlock, config.vocab_size)};
  std::vector<GenerateRequest> requests;                                      // of the two beginnings in turn
  for (size_t i = 0; i < 6; ++i) {
    std::vector<int32_t> prompt = common[i % 2];
    for (const int32_t id : random_ids(numbers, 5, config.vocab_size)) prompt.push_back(id);
    requests.push_back(request_of(prompt, 1, 3, 0, i));
  }
  const Outcomes expected = alone(model, requests);
  const auto rows_of_run = [&] {
    rows_computed = 0;
    Outcomes outcomes;
    generator.run(requests, [&](GenerateResult&& r) { outcomes[{r.request, r.sample}] = {r.token_ids, r.logps, r.finish}; });
    EXPECT(outcomes == expected);
    return rows_computed;
  };
  const int64_t tails = 6 * (5 + 2);                                          // the last of three tokens is not fed back
  EXPECT_EQ(rows_of_run(), tails + 3 * kRowBlock);
  EXPECT_EQ(rows_of_run(), tails);
  transformer.weights_changed();
  EXPECT_EQ(rows_of_run(), tails + 3 * kRowBlock);
  generator.release_memory();
  EXPECT_EQ(rows_of_run(), tails + 3 * kRowBlock);
}

TEST("generator: without room for beginnings, requests that begin alike still follow one another") {
  ModelConfig config = tiny_config(Architecture::mistral);
  config.max_position = 400;
  TinyModel model(config, DType::f32);
  ops::Table counting = model.ops();
  plain_embedding = counting.embedding;
  counting.embedding = counting_embedding;
  Transformer transformer(model.weights, counting, model.handle());
  Generator generator(transformer, options_of(1, 2048, 3 * kRowBlock), counting, model.handle());
  Numbers numbers(31);
  const std::vector<int32_t> common[2] = {random_ids(numbers, kRowBlock, config.vocab_size), random_ids(numbers, kRowBlock, config.vocab_size)};
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < 6; ++i) {
    std::vector<int32_t> prompt = common[i % 2];
    for (const int32_t id : random_ids(numbers, 5, config.vocab_size)) prompt.push_back(id);
    requests.push_back(request_of(prompt, 1, 3, 0, i));
  }
  rows_computed = 0;
  generator.run(requests, [](GenerateResult&&) {});
  EXPECT_EQ(rows_computed, 6 * (5 + 2) + 2 * kRowBlock);
}

TEST("generator: a prompt's beginning is found while it is held, and then until its rows are needed") {
  RowBlocks blocks(20 * kRowBlock);
  std::vector<int32_t> prompt(3 * kRowBlock);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i % 50);
  EXPECT(blocks.find_beginning(prompt).empty());
  std::vector<int32_t> held = blocks.take(3);
  blocks.remember(prompt, held);
  EXPECT(blocks.find_beginning(prompt) == std::vector<int32_t>(held.begin(), held.begin() + 2));  // never the last token's block
  std::vector<int32_t> longer = prompt, other = prompt;
  longer.push_back(1);
  other[70] = 49;
  EXPECT(blocks.find_beginning(longer) == held);
  EXPECT(blocks.find_beginning(other) == std::vector<int32_t>(held.begin(), held.begin() + 1));
  EXPECT(blocks.find_beginning({1}).empty());
  blocks.release(held);
  EXPECT_EQ(blocks.free(), 20);
  EXPECT_EQ(blocks.idle(), 3);
  std::vector<int32_t> again = blocks.find_beginning(longer);
  EXPECT_EQ(again.size(), size_t{3});
  EXPECT_EQ(blocks.idle_among(again), 3);
  blocks.share(again);
  EXPECT_EQ(blocks.free(), 17);
  EXPECT_EQ(blocks.idle_among(again), 0);
  blocks.release(again);
  std::vector<int32_t> most = blocks.take(18);                        // one of the idle ones: the last block of the prompt goes first
  EXPECT_EQ(blocks.find_beginning(longer).size(), size_t{2});
  std::vector<int32_t> rest = blocks.take(2);
  EXPECT(blocks.find_beginning(longer).empty());
  blocks.release(most);
  blocks.release(rest);
  EXPECT_EQ(blocks.free(), 20);
  EXPECT_EQ(blocks.idle(), 0);
}

TEST("generator: cache blocks are shared by count and come back") {
  RowBlocks blocks(5 * kRowBlock + 3);
  EXPECT_EQ(blocks.total(), 5);
  std::vector<int32_t> prompt = blocks.take(2), sample = prompt, answer = blocks.take(3);
  EXPECT_EQ(blocks.free(), 0);
  EXPECT_ERROR(blocks.take(1), ErrorCode::internal, "free");
  blocks.share(prompt);
  blocks.release(prompt);
  EXPECT_EQ(blocks.free(), 0);
  blocks.release(sample);
  EXPECT_EQ(blocks.free(), 2);
  blocks.release(answer);
  EXPECT_EQ(blocks.free(), 5);
}

TEST("generation: a decoding step is launched as one where the backend can, with the tokens of one launched piece by piece") {
  ModelConfig config = tiny_config(Architecture::llama);
  config.max_position = 256, config.head_dim = 64, config.n_heads = 2, config.n_kv_heads = 1;  // what decoding's own kernels take
  TinyModel m(config, DType::bf16);
  ops::Table plain = m.ops();
  plain.repeated = ops::do_each_time;
  Transformer piece_by_piece(m.weights, plain, m.handle());
  Numbers numbers(5);
  // Answers that end one after the other, past a block of keys and past two, and samples that share a prompt.
  std::vector<GenerateRequest> requests;
  for (const auto& [prompt, n, answer] : {std::tuple{30, 1, 150}, {100, 2, 80}, {7, 1, 10}, {64, 1, 66}})
    requests.push_back(request_of(random_ids(numbers, prompt, config.vocab_size), n, answer, 1.0, static_cast<uint64_t>(prompt)));
  const auto run = [&](Transformer& transformer, const ops::Table& ops) {
    Generator generator(transformer, options_of(8), ops, m.handle());
    Outcomes outcomes;
    generator.run(requests, [&](GenerateResult&& r) { outcomes[{r.request, r.sample}] = {r.token_ids, r.logps, r.finish}; });
    return outcomes;
  };
  const Outcomes expected = run(piece_by_piece, plain);
  EXPECT_EQ(m.backend->graph_launches(), 0);
  for (int again = 0; again < 2; ++again) {
    const int64_t before = m.backend->graph_launches();
    EXPECT(run(m.transformer, m.ops()) == expected);
    const int64_t launches = m.backend->graph_launches() - before;
    if (on_cpu()) EXPECT_EQ(launches, 0);
    else if (launches < 100) throw std::runtime_error(concat("only ", launches, " of 149 steps were launched as one"));
  }
}
