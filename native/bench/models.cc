// Training steps and generation with random weights of a published shape.
#include <chrono>

#include "bench/measure.h"
#include "infer/generator.h"
#include "train/trainer.h"

namespace rlhi::bench {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::unique_ptr<Weights> fill_weights(const Bench& b, const ModelConfig& config) {
  auto weights = std::make_unique<Weights>(config, DType::bf16, b.ops, b.backend);
  const RandomBlock values(DType::bf16, 0.02);
  values.fill(b, weights->data(), weights->elements());
  const std::vector<bf16> ones(static_cast<size_t>(std::max(config.hidden_size, config.head_dim)), to_bf16(1.0f));
  for (const NamedParameter& p : weights->parameters)
    if (!p.is_matrix && p.name.find("norm") != std::string::npos) b.ops.upload(b.backend, p.view.data, ones.data(), static_cast<size_t>(p.view.bytes()));
  return weights;
}

std::vector<int32_t> random_ids(RandomStream& random, int64_t n, int64_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.next() % static_cast<uint32_t>(vocab));
  return ids;
}

// docs/benchmarks.md: what a perfect implementation computes for one pair.
double pair_flops(const ModelConfig& c, double prompt, double answer) {
  const double d = static_cast<double>(c.hidden_size), q = static_cast<double>(c.q_width()), kv = static_cast<double>(c.kv_width());
  const double layers = static_cast<double>(c.n_layers), body = layers * (d * (q + 2 * kv) + q * d + 3 * d * static_cast<double>(c.intermediate_size));
  const double head = d * static_cast<double>(c.vocab_size), seen = prompt * prompt / 2 + 2 * (prompt * answer + answer * answer / 2);
  return 6 * body * (prompt + 2 * answer) + 6 * head * 2 * answer + 12 * layers * q * seen;
}

// The largest number of layers, up to the shape's own, whose training plan fits.
ModelConfig fitting(const Bench& b, ModelConfig config, const TrainOptions& options) {
  const auto available = static_cast<size_t>(b.ops.available_bytes(b.backend));
  while (config.n_layers > 1 && plan_training(config, DType::bf16, options).total > available) {
    --config.n_layers;
    config.layer_window.pop_back();
  }
  return config;
}

}  // namespace

void measure_training(const Bench& b, const std::string& shape, int64_t max_tokens, int64_t length, int64_t micro_batches, int steps, TrainMemory memory) {
  TrainOptions options;
  if (memory == TrainMemory::compact) options.gradients = DType::bf16, options.moments = ops::Moments::coded;
  options.max_tokens_per_micro_batch = max_tokens, options.max_pair_tokens = 3 * length;
  options.kept_logits_bytes = int64_t{1} << 30;
  options.device_has_own_memory = true;
  options.moment_memory = memory == TrainMemory::host_moments ? MomentMemory::host : MomentMemory::device;
  const ModelConfig full = named_shape(shape), config = fitting(b, full, options);
  const double peak = best_product_tflops(b);
  const auto before = b.ops.available_bytes(b.backend);
  const auto weights = fill_weights(b, config);
  Profile profile(b.device);
  ops::Table table = b.ops;                      // plain, until the last step is profiled
  Transformer transformer(*weights, table, b.backend);
  Trainer trainer(*weights, transformer, options, table, b.backend);
  RandomStream random(7);
  const int64_t n_pairs = micro_batches * (max_tokens / (3 * length));
  std::vector<Pair> pairs;
  for (int64_t i = 0; i < n_pairs; ++i)
    pairs.push_back({random_ids(random, length, config.vocab_size), random_ids(random, length, config.vocab_size), random_ids(random, length, config.vocab_size)});
  StepMetrics metrics;
  trainer.step(pairs);                           // chooses algorithms and grows scratch
  // As training runs: a step is begun before the one before has ended. The host's share is what giving it to the GPU takes: where that is
  // less than the step, no kernel waits for its launch.
  std::vector<double> host, ends;
  const auto begin = std::chrono::steady_clock::now();
  const auto since = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  host.push_back(seconds_of([&] { trainer.begin_step(pairs); }));
  for (int i = 0; i < steps; ++i) {
    host.push_back(seconds_of([&] { trainer.begin_step(pairs); }));
    metrics = trainer.end_step();
    ends.push_back(since());
  }
  metrics = trainer.end_step();
  ends.push_back(since());
  std::vector<double> seconds;
  for (size_t i = 1; i < ends.size(); ++i) seconds.push_back(ends[i] - ends[i - 1]);
  const double step = median(seconds), forward = seconds_of([&] { trainer.evaluate(pairs); });
  const double useful = pair_flops(config, static_cast<double>(length), static_cast<double>(length)) * static_cast<double>(n_pairs) / step / 1e12;
  b.report.add("train", concat(shape, config.n_layers < full.n_layers ? concat(", ", config.n_layers, " of ", full.n_layers, " layers") : "", ", ", length, "+", length, "+", length, memory == TrainMemory::compact ? ", bf16 gradients, 8-bit moments" : memory == TrainMemory::host_moments ? ", moments in host memory" : ""),
               {{"pairs_per_s", static_cast<double>(n_pairs) / step}, {"tokens_per_s", static_cast<double>(metrics.num_tokens) / step}, {"step_s", step}, {"host_s", median(host)},
                {"forward_s", forward}, {"useful_tflops", useful}, {"peak_tflops", peak}, {"useful_mfu", useful / peak}, {"pairs", static_cast<double>(n_pairs)},
                {"micro_batch_tokens", static_cast<double>(max_tokens)}, {"layers", static_cast<double>(config.n_layers)}, {"loss", metrics.loss},
                {"memory_gib", static_cast<double>(before - b.ops.available_bytes(b.backend)) / (1 << 30)}});
  table = profile.table();
  const double profiled = seconds_of([&] { trainer.step(pairs); });
  for (const auto& [name, milliseconds, calls] : profile.take())
    b.report.add("train", concat(shape, " step, ", name), {{"ms", milliseconds}, {"calls", static_cast<double>(calls)}, {"share_of_step", milliseconds / 1e3 / profiled}});
}

void measure_generation(const Bench& b, const std::string& shape, int64_t sequences, int64_t prompt, int32_t new_tokens) {
  const ModelConfig config = named_shape(shape);
  const double copy = copy_bandwidth(b);
  const auto weights = fill_weights(b, config);
  Profile profile(b.device);
  ops::Table table = b.ops;                      // plain, until the last run is profiled
  Transformer transformer(*weights, table, b.backend);
  GeneratorOptions options;
  options.max_sequences = static_cast<int32_t>(sequences);
  Generator generator(transformer, options, table, b.backend);
  RandomStream random(7);
  std::vector<GenerateRequest> requests(static_cast<size_t>(sequences));
  for (GenerateRequest& r : requests) r.prompt = random_ids(random, prompt, config.vocab_size), r.sampling.temperature = 0, r.seeds = {1};
  const auto run = [&](int32_t tokens) {
    for (GenerateRequest& r : requests) r.max_new_tokens = tokens;
    return seconds_of([&] { generator.run(requests, [](GenerateResult&&) {}); });
  };
  run(16);                                       // chooses algorithms, of decoding by all sequences too, and grows scratch
  const double prefill = run(1);
  const int64_t graphs_before = b.device.graph_launches();
  const double whole = run(new_tokens), graphs = static_cast<double>(b.device.graph_launches() - graphs_before), step = (whole - prefill) / (new_tokens - 1);
  // What a step must read: all weights, and every sequence's keys and values.
  const double kv = static_cast<double>(KvCache::bytes(config, DType::bf16, 1)) * static_cast<double>(sequences) * (static_cast<double>(prompt) + new_tokens / 2.0);
  const double bytes = static_cast<double>(weights->elements() * dtype_size(DType::bf16)) + kv;
  b.report.add("generate", concat(shape, ", ", sequences, " sequences, ", prompt, "+", new_tokens),
               {{"decode_tokens_per_s", static_cast<double>(sequences) / step}, {"step_ms", 1e3 * step}, {"limit_ms", bytes / copy / 1e6},
                {"share_of_limit", bytes / copy / 1e9 / step}, {"steps_launched_as_one", graphs}, {"prefill_tokens_per_s", static_cast<double>(sequences * prompt) / prefill}, {"copy_gb_per_s", copy}});
  table = profile.table();
  run(new_tokens);
  for (const auto& [name, milliseconds, calls] : profile.take())
    b.report.add("generate", concat(shape, " whole run, ", name), {{"ms", milliseconds}, {"calls", static_cast<double>(calls)}});
}

}  // namespace rlhi::bench
