// The training step: gradients, micro-batches, aborts, refusals. (Values against PyTorch: oracle_test.cc.)
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "io/safetensors.h"
#include "model/activations.h"
#include "test/check.h"
#include "test/tiny_models.h"
#include "train/training_plan.h"

using namespace rlhi;
using namespace rlhi::test;

namespace {

TrainOptions train_options(int64_t budget = 512) {
  TrainOptions o;
  o.learning_rate = 1e-3, o.weight_decay = 0.1, o.max_tokens_per_micro_batch = budget;
  o.max_pair_tokens = 150;
  return o;
}

// The reference log-probabilities a run precomputes: by scoring, at another token budget than training's.
void score_reference(TinyModel& reference, std::vector<Pair>& pairs) {
  std::vector<ScoreTree> trees;
  for (const Pair& p : pairs) trees.push_back({p.prompt, {p.chosen, p.rejected}});
  const auto scores = score_trees(reference.transformer, trees, 61, reference.ops(), reference.handle());
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i].ref_chosen_logp = pairs[i].ref_rejected_logp = 0;
    for (const float l : scores[i][0]) pairs[i].ref_chosen_logp += l;
    for (const float l : scores[i][1]) pairs[i].ref_rejected_logp += l;
  }
}

double relative_difference(const std::vector<float>& x, const std::vector<float>& y) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += std::pow(static_cast<double>(x[i]) - y[i], 2);
    norm += std::pow(static_cast<double>(y[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// A folder that is gone after the test.
struct TemporaryFolder {
  TemporaryFolder() : path((std::filesystem::temp_directory_path() / concat("rlhi-trainer-test-", ::getpid())).string()) {
    std::filesystem::create_directories(path);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string path;
};

// A run of `steps` steps from `begin`, whose pairs depend on the step alone.
void run_steps(Trainer& trainer, int64_t begin, int64_t steps, int64_t vocab) {
  for (int64_t s = begin; s < begin + steps; ++s) trainer.step(random_pairs(static_cast<uint64_t>(900 + s), 4, vocab));
}

// An operation that requests an abort in the `abort_at`-th micro-batch of a step (each begins with one embedding).
std::atomic<bool> abort_requested{false};
int embeddings_until_abort = 0;
void (*plain_embedding)(ops::Backend*, Tensor, Tensor, const int32_t*) = nullptr;
void aborting_embedding(ops::Backend* b, Tensor out, Tensor table, const int32_t* ids) {
  if (--embeddings_until_abort == 0) abort_requested = true;
  plain_embedding(b, out, table, ids);
}

// An update that brings moments in host memory to the device by pieces as small as a tiny model has several of.
void (*plain_adamw)(ops::Backend*, const ops::AdamWArgs&) = nullptr;
void adamw_by_small_pieces(ops::Backend* b, const ops::AdamWArgs& given) {
  ops::AdamWArgs args = given;
  args.moment_piece = 2048;
  plain_adamw(b, args);
}

}  // namespace

TEST("trainer: with policy = reference the first loss is ln 2, in f32 and bf16, on every backend") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Architecture architecture : all_architectures()) {
        TinyModel m(tiny_config(architecture), dtype, backend);
        std::vector<Pair> pairs = random_pairs(21, 7, m.weights.config().vocab_size, 50);
        score_reference(m, pairs);
        Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle());
        const StepMetrics metrics = trainer.accumulate_only(pairs);
        EXPECT_NEAR(metrics.loss, std::log(2.0), 1e-7);
        EXPECT_EQ(metrics.rewards_margins, 0.0);  // not only near: training and scoring give the same bits
        for (Pair& p : pairs) {                   // ... also where the references went through a float32 column
          p.ref_chosen_logp = static_cast<float>(p.ref_chosen_logp), p.ref_rejected_logp = static_cast<float>(p.ref_rejected_logp);
        }
        EXPECT_EQ(trainer.accumulate_only(pairs).rewards_margins, 0.0);
      }
    }
  }
}

TEST("trainer: evaluating gives the metrics of a step by a forward alone, and leaves weights and gradient") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyModel m(tiny_config(Architecture::qwen2), dtype);
    std::vector<Pair> pairs = random_pairs(41, 5, m.weights.config().vocab_size, 40);
    score_reference(m, pairs);
    for (Pair& p : pairs) p.ref_chosen_logp -= 1.5;
    TrainOptions options = train_options();
    options.max_tokens_per_micro_batch = 150;
    Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
    const StepMetrics expected = trainer.accumulate_only(pairs);
    const std::vector<char> before = m.bytes(trainer.gradients());
    const StepMetrics found = trainer.evaluate(pairs);
    EXPECT_EQ(found.loss, expected.loss);
    EXPECT_EQ(found.rewards_margins, expected.rewards_margins);
    EXPECT_EQ(found.logps_rejected, expected.logps_rejected);
    EXPECT_EQ(found.num_tokens, expected.num_tokens);
    EXPECT_EQ(found.grad_norm, 0.0);
    EXPECT(before == m.bytes(trainer.gradients()));
    EXPECT_EQ(trainer.steps_done(), 0);
  }
}

TEST("trainer: the gradient agrees with differences of the loss, tensor by tensor") {
  for (const Architecture architecture : all_architectures()) {
    TinyModel m(tiny_config(architecture), DType::f32);
    std::vector<Pair> pairs = random_pairs(31, 3, m.weights.config().vocab_size);
    TrainOptions options = train_options();
    options.loss.rpo_alpha = 0.5;
    Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
    trainer.accumulate_only(pairs);
    const std::vector<float> g = m.floats(trainer.gradients());
    for (const NamedParameter& p : m.weights.parameters) {
      double norm = 0;
      for (int64_t i = p.offset; i < p.offset + p.view.size(); ++i) norm += static_cast<double>(g[static_cast<size_t>(i)]) * g[static_cast<size_t>(i)];
      norm = std::sqrt(norm);
      EXPECT(norm > 1e-5);
      const std::vector<float> before = download_floats(m.ops(), m.handle(), p.view);
      const auto loss_along = [&](double distance) {  // along the tensor's own gradient
        std::vector<float> moved = before;
        for (size_t i = 0; i < moved.size(); ++i)
          moved[i] = static_cast<float>(before[i] + distance * g[static_cast<size_t>(p.offset) + i] / norm);
        upload_floats(m.ops(), m.handle(), p.view, moved);
        const double loss = trainer.accumulate_only(pairs).loss;
        upload_floats(m.ops(), m.handle(), p.view, before);
        return loss;
      };
      const double h = 4e-3, slope = (8 * (loss_along(h) - loss_along(-h)) - (loss_along(2 * h) - loss_along(-2 * h))) / (12 * h);
      if (std::abs(slope - norm) > 5e-3 * norm + 1e-4)
        fail(ErrorCode::internal, p.name, ": slope ", slope, " along a gradient of norm ", norm);
    }
  }
}

TEST("trainer: micro-batches of any size give the same loss and gradient") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyModel m(tiny_config(Architecture::mistral), dtype);
    const std::vector<Pair> pairs = random_pairs(41, 9, m.weights.config().vocab_size);
    Trainer whole(m.weights, m.transformer, train_options(4096), m.ops(), m.handle());
    const StepMetrics expected = whole.accumulate_only(pairs);
    for (const int64_t budget : {1, 60, 170}) {
      Trainer parts(m.weights, m.transformer, train_options(budget), m.ops(), m.handle());
      const StepMetrics found = parts.accumulate_only(pairs);
      EXPECT_NEAR(found.loss, expected.loss, 1e-12);
      EXPECT_EQ(found.num_tokens, expected.num_tokens);
      EXPECT_NEAR(found.logps_chosen, expected.logps_chosen, 1e-9);
      EXPECT_NEAR(relative_difference(m.floats(parts.gradients()), m.floats(whole.gradients())), 0, 2e-6);
    }
  }
}

TEST("trainer: gradients in bf16 are those in f32, rounded once a micro-batch") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      TinyModel m(tiny_config(Architecture::qwen2), dtype, backend);
      const std::vector<Pair> pairs = random_pairs(41, 9, m.weights.config().vocab_size);
      const auto gradients = [&](DType type, int64_t budget) {
        TrainOptions options = train_options(budget);
        options.gradients = type;
        Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
        trainer.accumulate_only(pairs);
        return m.floats(trainer.gradients());
      };
      for (const int64_t budget : {60, 4096}) {
        const std::vector<float> halves = gradients(DType::bf16, budget), floats = gradients(DType::f32, budget);
        EXPECT(halves != floats);
        EXPECT_NEAR(relative_difference(halves, floats), 0, budget == 4096 ? 0x1p-8 : 0x1p-6);
      }
    }
  }
}

TEST("trainer: layers computed again give the bits of layers kept, and keeping norms' outputs changes no more than rounding does") {
  for (const BackendChoice& backend : every_backend()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Architecture architecture : all_architectures()) {
        TinyModel m(tiny_config(architecture), dtype, backend);
        const std::vector<Pair> pairs = random_pairs(43, 5, m.weights.config().vocab_size);
        const auto gradients = [&](Recompute level) {
          TrainOptions options = train_options(120);
          options.recompute = level;
          Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
          trainer.accumulate_only(pairs);
          return m.floats(trainer.gradients());
        };
        const std::vector<float> norms = gradients(Recompute::norms);
        EXPECT(gradients(Recompute::layers) == norms);
        EXPECT_NEAR(relative_difference(gradients(Recompute::none), norms), 0, dtype == DType::f32 ? 1e-6 : 1e-2);
      }
    }
  }
}

TEST("trainer: the plan says what of the activations is kept, and layers are computed again where keeping them does not fit") {
  TinyModel m(tiny_config(Architecture::qwen3), DType::bf16);
  const ModelConfig& c = m.weights.config();
  TrainOptions options = train_options(2048);
  if (!m.ops().keeps_logits(m.handle(), DType::bf16)) options.kept_logits_bytes = 0;  // as the trainer has it
  const auto plan_at = [&](std::optional<Recompute> level) {
    options.recompute = level;
    return plan_training(c, DType::bf16, options);
  };
  for (const Recompute level : {Recompute::none, Recompute::norms, Recompute::layers}) {
    const MemoryPlan plan = plan_at(level);
    size_t kept = 0;
    for (const ActivationEntry& e : plan.activations) kept += e.kept ? e.bytes : 0;
    for (const PlanEntry& e : plan.entries) EXPECT(e.name != "activations" || e.bytes == kept);
    EXPECT(plan.recompute == level);
  }
  const size_t none = plan_at(Recompute::none).total, norms = plan_at(Recompute::norms).total, layers = plan_at(Recompute::layers).total;
  EXPECT(layers < norms && norms < none);
  EXPECT(plan_at({}).recompute == Recompute::norms);
  options.memory_limit_bytes = static_cast<int64_t>(norms - 1);
  EXPECT(plan_at({}).recompute == Recompute::layers);
  EXPECT_EQ(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()).plan().total, layers);
  options.recompute = Recompute::norms;
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::out_of_memory, "recompute layers would fit");
}

TEST("trainer: the same step twice gives the same bits, whatever the threads") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<char> first;
    for (const int threads : {1, 2, 2}) {
      TinyModel m(tiny_config(Architecture::llama), dtype, default_backend(), 1, threads);
      Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle());
      trainer.step(random_pairs(51, 5, m.weights.config().vocab_size));
      trainer.step(random_pairs(52, 5, m.weights.config().vocab_size));
      if (first.empty()) first = m.bytes(m.weights);
      else EXPECT(first == m.bytes(m.weights));
    }
  }
}

TEST("trainer: a step's gradient owes nothing to the step before, tied or not, in one micro-batch or several") {
  for (const Architecture architecture : {Architecture::llama, Architecture::qwen3}) {
    for (const bool tied : {false, true}) {
      ModelConfig config = tiny_config(architecture);
      config.tied_embeddings = tied;
      TinyModel m(config, DType::bf16);
      std::vector<Pair> pairs = random_pairs(55, 5, config.vocab_size);
      score_reference(m, pairs);
      for (const int64_t budget : {int64_t{4096}, int64_t{1}}) {
        TrainOptions options = train_options();
        options.max_tokens_per_micro_batch = budget;
        Trainer fresh(m.weights, m.transformer, options, m.ops(), m.handle()), used(m.weights, m.transformer, options, m.ops(), m.handle());
        used.accumulate_only(random_pairs(56, 4, config.vocab_size));
        fresh.accumulate_only(pairs);
        used.accumulate_only(pairs);
        EXPECT(m.bytes(fresh.gradients()) == m.bytes(used.gradients()));
      }
    }
  }
}

TEST("trainer: metrics are means over the pairs, in TRL's terms") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  std::vector<Pair> pairs = random_pairs(61, 4, m.weights.config().vocab_size);
  score_reference(m, pairs);
  int64_t tokens = 0;
  double chosen = 0;
  for (Pair& p : pairs) {
    tokens += static_cast<int64_t>(p.prompt.size() + p.chosen.size() + p.rejected.size());
    chosen += p.ref_chosen_logp / 4;
    p.ref_chosen_logp -= 2, p.ref_rejected_logp += 1;  // the policy favours chosen by 3 ...
  }
  pairs[3].ref_chosen_logp += 8;                       // ... but for the last, which it disfavours by 5
  Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle());
  const StepMetrics metrics = trainer.step(pairs);
  EXPECT_EQ(metrics.num_tokens, tokens);
  EXPECT_NEAR(metrics.logps_chosen, chosen, 1e-9);
  EXPECT_NEAR(metrics.rewards_accuracies, 0.75, 1e-15);
  const double resolution = 1e-6;                      // a reference that float32 can hold is compared in float32
  EXPECT_NEAR(metrics.rewards_chosen, 0.1 * (3 * 2 - 6) / 4, resolution);
  EXPECT_NEAR(metrics.rewards_rejected, -0.1, resolution);
  EXPECT_NEAR(metrics.rewards_margins, metrics.rewards_chosen - metrics.rewards_rejected, 1e-9);
  EXPECT_NEAR(metrics.loss, (3 * std::log1p(std::exp(-0.3)) + std::log1p(std::exp(0.5))) / 4, resolution);
  EXPECT_NEAR(metrics.learning_rate, 1e-3, 0);
  EXPECT_EQ(metrics.step, 1);
}

TEST("trainer: an abort in the middle of a step leaves weights, moments and step count as they were") {
  TinyModel m(tiny_config(Architecture::qwen2), DType::bf16), twin(tiny_config(Architecture::qwen2), DType::bf16);
  ops::Table aborting = m.ops();
  plain_embedding = aborting.embedding;
  aborting.embedding = aborting_embedding;
  Transformer transformer(m.weights, aborting, m.handle());
  Trainer trainer(m.weights, transformer, train_options(60), aborting, m.handle());
  Trainer undisturbed(twin.weights, twin.transformer, train_options(60), twin.ops(), twin.handle());
  const std::vector<Pair> first = random_pairs(71, 8, m.weights.config().vocab_size);
  const std::vector<Pair> second = random_pairs(72, 8, m.weights.config().vocab_size);
  embeddings_until_abort = std::numeric_limits<int>::max();
  trainer.step(first, &abort_requested);
  const std::vector<char> before = m.bytes(m.weights);
  embeddings_until_abort = 2;
  EXPECT_ERROR(trainer.step(second, &abort_requested), ErrorCode::aborted, "the weights were not changed");
  EXPECT(before == m.bytes(m.weights));
  EXPECT_EQ(embeddings_until_abort, 0);      // no micro-batch was begun after the request
  EXPECT_EQ(trainer.steps_done(), 1);
  abort_requested = false;
  embeddings_until_abort = std::numeric_limits<int>::max();
  trainer.step(second, &abort_requested);
  undisturbed.step(first);
  undisturbed.step(second);
  EXPECT(m.bytes(m.weights) == twin.bytes(twin.weights));
}

TEST("trainer: a loss that is not finite stops the step before the update") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle());
  const std::vector<Pair> pairs = random_pairs(81, 3, m.weights.config().vocab_size);
  std::vector<float> norm = download_floats(m.ops(), m.handle(), m.weights.final_norm);
  norm[5] = std::numeric_limits<float>::quiet_NaN();
  upload_floats(m.ops(), m.handle(), m.weights.final_norm, norm);
  const std::vector<char> before = m.bytes(m.weights);
  EXPECT_ERROR(trainer.step(pairs), ErrorCode::internal, "the loss of pair 0 is");
  EXPECT(before == m.bytes(m.weights));
  EXPECT_EQ(trainer.steps_done(), 0);
}

TEST("trainer: steps begun before the one before has ended are the very steps one after the other") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyModel m(tiny_config(Architecture::llama), dtype), twin(tiny_config(Architecture::llama), dtype);
    Trainer ahead(m.weights, m.transformer, train_options(100), m.ops(), m.handle()), one(twin.weights, twin.transformer, train_options(100), twin.ops(), twin.handle());
    std::vector<StepMetrics> found, expected;
    const std::vector<size_t> sizes{3, 5, 1, 4};
    for (size_t s = 0; s < sizes.size(); ++s) {
      const auto pairs = random_pairs(95 + s, sizes[s], m.weights.config().vocab_size);
      expected.push_back(one.step(pairs));
      ahead.begin_step(pairs);
      EXPECT_EQ(ahead.steps_done(), static_cast<int64_t>(found.size()));
      if (ahead.steps_under_way() < Trainer::kStepsUnderWay) continue;
      EXPECT_ERROR(ahead.begin_step(pairs), ErrorCode::internal, "2 are under way");
      found.push_back(ahead.end_step());
    }
    EXPECT_ERROR(ahead.save_state("nowhere"), ErrorCode::internal, "1 steps are under way");
    found.push_back(ahead.end_step());
    for (size_t s = 0; s < found.size(); ++s) {
      EXPECT_EQ(found[s].step, static_cast<int64_t>(s) + 1);
      EXPECT(found[s].loss == expected[s].loss && found[s].grad_norm == expected[s].grad_norm && found[s].learning_rate == expected[s].learning_rate);
      EXPECT_EQ(found[s].num_tokens, expected[s].num_tokens);
    }
    EXPECT(m.bytes(m.weights) == twin.bytes(twin.weights));
    EXPECT_EQ(ahead.steps_done(), 4);
  }
}

TEST("trainer: of a step that fails neither it nor what was begun after it changes the weights") {
  TinyModel m(tiny_config(Architecture::llama), DType::bf16), twin(tiny_config(Architecture::llama), DType::bf16);
  Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle()), undisturbed(twin.weights, twin.transformer, train_options(), twin.ops(), twin.handle());
  const int64_t vocab = m.weights.config().vocab_size;
  const auto first = random_pairs(61, 3, vocab), after = random_pairs(62, 3, vocab);
  auto bad = first;
  bad[1].ref_chosen_logp = 1e308, bad[1].ref_rejected_logp = -1e308;
  trainer.step(first);
  const std::vector<char> before = m.bytes(m.weights);
  trainer.begin_step(bad);
  trainer.begin_step(after);
  EXPECT_ERROR(trainer.end_step(), ErrorCode::internal, "the loss of pair 1 is inf");
  EXPECT_ERROR(trainer.end_step(), ErrorCode::internal, "the step before this one failed");
  EXPECT(before == m.bytes(m.weights));
  EXPECT_EQ(trainer.steps_done(), 1);
  EXPECT_EQ(trainer.step(after).step, 2);
  undisturbed.step(first), undisturbed.step(after);
  EXPECT(m.bytes(m.weights) == twin.bytes(twin.weights));
}

TEST("trainer: a run stopped after any step and resumed from its files ends in the same bytes") {
  struct Case {
    DType dtype, gradients;
    ops::Moments moments;
    Architecture architecture;
  };
  constexpr DType F = DType::f32, B = DType::bf16;
  using ops::Moments;
  for (const auto& [dtype, gradients, moments, architecture] :
       {Case{F, F, Moments::f32, Architecture::qwen2}, Case{B, F, Moments::f32, Architecture::qwen3}, Case{B, B, Moments::bf16, Architecture::llama},
        Case{B, B, Moments::coded, Architecture::qwen2}, Case{F, F, Moments::coded, Architecture::mistral}}) {
    const ModelConfig config = tiny_config(architecture);
    const TemporaryFolder parent;
    const std::string stopped = parent.path + "/stopped", resumed_end = parent.path + "/resumed",
                      unbroken_end = parent.path + "/unbroken";
    for (const std::string& folder : {stopped, resumed_end, unbroken_end}) std::filesystem::create_directories(folder);
    TrainOptions options = train_options(70);
    options.warmup_steps = 2, options.total_steps = 6, options.schedule = ScheduleType::cosine, options.gradients = gradients, options.moments = moments;
    const auto save = [](TinyModel& m, Trainer& trainer, const std::string& folder) {
      save_pretrained(folder, m.weights, m.weights.dtype(), m.ops(), m.handle());
      trainer.save_state(folder);
    };
    {
      TinyModel m(config, dtype);
      Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
      run_steps(trainer, 0, 3, config.vocab_size);
      save(m, trainer, stopped);
      run_steps(trainer, 3, 3, config.vocab_size);
      save(m, trainer, unbroken_end);
    }
    TinyModel m(config, dtype, default_backend(), 777);  // other weights, until the saved ones are in
    const auto loaded = load_weights(stopped, load_config(stopped), dtype, m.ops(), m.handle());
    Transformer transformer(*loaded, m.ops(), m.handle());
    Trainer trainer(*loaded, transformer, options, m.ops(), m.handle());
    trainer.load_state(stopped);
    EXPECT_EQ(trainer.steps_done(), 3);
    run_steps(trainer, 3, 3, config.vocab_size);
    save_pretrained(resumed_end, *loaded, dtype, m.ops(), m.handle());
    trainer.save_state(resumed_end);
    for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) {
      EXPECT(read_text_file(resumed_end + file) == read_text_file(unbroken_end + file));
      EXPECT(read_text_file(stopped + file) != read_text_file(unbroken_end + file));
    }
  }
}

TEST("trainer: moments in host memory give the bits of moments on the device, and a state of either goes on as the other") {
  const ModelConfig config = tiny_config(Architecture::qwen2);
  for (const ops::Moments moments : {ops::Moments::f32, ops::Moments::bf16, ops::Moments::coded}) {
    const TemporaryFolder parent;
    // Goes on from the state in `from`, where that is given, and saves after three steps.
    const auto three_steps = [&](MomentMemory memory, const std::string& from, const std::string& to) {
      TinyModel m(config, DType::bf16);
      ops::Table table = m.ops();
      plain_adamw = table.adamw, table.adamw = adamw_by_small_pieces;
      const std::unique_ptr<Weights> loaded = from.empty() ? nullptr : load_weights(from, load_config(from), DType::bf16, m.ops(), m.handle());
      Weights& weights = loaded ? *loaded : m.weights;
      Transformer transformer(weights, m.ops(), m.handle());
      TrainOptions options = train_options(70);
      options.moments = moments, options.moment_memory = memory;
      Trainer trainer(weights, transformer, options, table, m.handle());
      const bool on_host = memory == MomentMemory::host && !on_cpu();
      EXPECT(trainer.plan().moment_memory == (on_host ? MomentMemory::host : MomentMemory::device));
      EXPECT_EQ(trainer.plan().host_bytes > 0, on_host);
      if (loaded) trainer.load_state(from);
      run_steps(trainer, trainer.steps_done(), 3, config.vocab_size);
      std::filesystem::create_directories(to);
      save_pretrained(to, weights, DType::bf16, m.ops(), m.handle());
      trainer.save_state(to);
    };
    const auto expect_same = [](const std::string& a, const std::string& b) {
      for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) EXPECT(read_text_file(a + file) == read_text_file(b + file));
    };
    const std::string device = parent.path + "/device", host = parent.path + "/host", host_after_device = parent.path + "/host-after-device",
                      device_after_host = parent.path + "/device-after-host";
    three_steps(MomentMemory::device, "", device);
    three_steps(MomentMemory::host, "", host);
    expect_same(device, host);
    three_steps(MomentMemory::host, device, host_after_device);
    three_steps(MomentMemory::device, host, device_after_host);
    expect_same(host_after_device, device_after_host);
    EXPECT(read_text_file(host + "/optimizer.safetensors") != read_text_file(host_after_device + "/optimizer.safetensors"));
  }
}

TEST("trainer: steps too small for bf16 still move the master weights") {
  const TemporaryFolder folder;
  TinyModel m(tiny_config(Architecture::llama), DType::bf16);
  TrainOptions options = train_options();
  options.learning_rate = 1e-7, options.weight_decay = 0;
  Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
  const std::vector<Pair> pairs = random_pairs(95, 4, m.weights.config().vocab_size);
  const std::vector<float> before = download_floats(m.ops(), m.handle(), m.weights.embed);
  for (int i = 0; i < 5; ++i) trainer.step(pairs);
  const std::vector<float> after = download_floats(m.ops(), m.handle(), m.weights.embed);
  trainer.save_state(folder.path);
  const io::SafetensorsFile state(folder.path + "/optimizer.safetensors");
  const io::SafetensorsEntry* entry = state.find("remainder.model.embed_tokens.weight");
  EXPECT(entry != nullptr);
  EXPECT_EQ(entry->dtype, std::string("I16"));
  std::vector<int16_t> remainder(entry->bytes / 2);
  std::memcpy(remainder.data(), entry->data, entry->bytes);
  int64_t still = 0, moved = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const double distance = static_cast<double>(join_master(to_bf16(after[i]), remainder[i])) - before[i];
    EXPECT(std::abs(distance) < 1e-6);
    if (std::abs(distance) > 1e-7) {
      ++moved;
      still += before[i] == after[i] ? 1 : 0;
    }
  }
  EXPECT(moved > static_cast<int64_t>(before.size()) / 2);
  EXPECT(still > moved * 9 / 10);  // plain bf16 would have lost nearly all of it
}

TEST("trainer: a state of another dtype or model, or a torn one, is refused and changes nothing") {
  const TemporaryFolder folder;
  TinyModel m(tiny_config(Architecture::llama), DType::f32), bf16_model(tiny_config(Architecture::llama), DType::bf16),
      other(tiny_config(Architecture::qwen2), DType::f32);
  Trainer trainer(m.weights, m.transformer, train_options(), m.ops(), m.handle());
  EXPECT_ERROR(trainer.load_state(folder.path), ErrorCode::io, "optimizer.safetensors");
  run_steps(trainer, 0, 2, m.weights.config().vocab_size);
  trainer.save_state(folder.path);
  Trainer bf16_trainer(bf16_model.weights, bf16_model.transformer, train_options(), bf16_model.ops(), bf16_model.handle());
  EXPECT_ERROR(bf16_trainer.load_state(folder.path), ErrorCode::invalid_file, "expected the state of bf16 weights, found that of f32");
  Trainer other_trainer(other.weights, other.transformer, train_options(), other.ops(), other.handle());
  EXPECT_ERROR(other_trainer.load_state(folder.path), ErrorCode::invalid_file, "another model");
  EXPECT_EQ(other_trainer.steps_done(), 0);
  TrainOptions halved = train_options();
  halved.moments = ops::Moments::bf16;
  TinyModel same(tiny_config(Architecture::llama), DType::f32);
  Trainer halved_trainer(same.weights, same.transformer, halved, same.ops(), same.handle());
  EXPECT_ERROR(halved_trainer.load_state(folder.path), ErrorCode::invalid_file, "expected BF16, found F32");
  const std::string path = folder.path + "/optimizer.safetensors";
  const std::string whole = read_text_file(path);
  write_text_file(path, whole.substr(0, whole.size() - 5));
  EXPECT_ERROR(trainer.load_state(folder.path), ErrorCode::invalid_file, "optimizer.safetensors");
  EXPECT_EQ(trainer.steps_done(), 2);
}

TEST("trainer: memory that is not there is refused with the sizes and the budget that would fit") {
  TinyModel m(tiny_config(Architecture::llama), DType::bf16);
  TrainOptions options = train_options(1 << 20);
  options.recompute = Recompute::layers;
  if (!m.ops().keeps_logits(m.handle(), DType::bf16)) options.kept_logits_bytes = 0;  // as the trainer has it
  const ModelConfig& c = m.weights.config();
  TrainOptions fitting = options;
  fitting.max_tokens_per_micro_batch = 777;
  options.memory_limit_bytes = static_cast<int64_t>(plan_training(c, DType::bf16, fitting).total);
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::out_of_memory,
               "max_tokens_per_micro_batch 777 would fit");
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::out_of_memory, "activations ");
  options.max_tokens_per_micro_batch = 777;
  Trainer fits(m.weights, m.transformer, options, m.ops(), m.handle());
  EXPECT_EQ(fits.plan().total, static_cast<size_t>(options.memory_limit_bytes));
  options.memory_limit_bytes = 1 << 20;
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::out_of_memory,
               "no max_tokens_per_micro_batch would fit");
}

TEST("trainer: pairs and options out of range are refused by name") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  Trainer trainer(m.weights, m.transformer, train_options(60), m.ops(), m.handle());
  const auto step = [&](Pair p) { return trainer.step({p}); };
  EXPECT_ERROR(trainer.step({}), ErrorCode::invalid_argument, "at least one pair");
  EXPECT_ERROR(step({{1}, {}, {2}}), ErrorCode::invalid_argument, "pair 0: prompt, chosen and rejected need");
  EXPECT_ERROR(step({{1}, {2, 61}, {2}}), ErrorCode::invalid_argument, "token id 61");
  EXPECT_ERROR(step({std::vector<int32_t>(120, 1), std::vector<int32_t>(9, 1), {2}}), ErrorCode::invalid_argument, "context of 128");
  EXPECT_ERROR(step({std::vector<int32_t>(90, 1), std::vector<int32_t>(30, 1), std::vector<int32_t>(31, 1)}), ErrorCode::invalid_argument,
               "151 tokens, more than the 150");
  EXPECT_ERROR(step({{1}, {2}, {2}, std::numeric_limits<double>::infinity(), 0}), ErrorCode::invalid_argument, "must be finite");
  TrainOptions options = train_options();
  options.schedule = ScheduleType::cosine;
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::invalid_argument, "needs total_steps");
  options = train_options();
  options.adam_beta2 = 1;
  EXPECT_ERROR(Trainer(m.weights, m.transformer, options, m.ops(), m.handle()), ErrorCode::invalid_argument, "adam_beta2 in [0, 1)");
}

TEST("schedule: warm-up begins above zero, decays are transformers'") {
  using S = ScheduleType;
  EXPECT_EQ(schedule_factor(S::constant_with_warmup, 0, 4, 0), 0.25);
  EXPECT_EQ(schedule_factor(S::constant_with_warmup, 3, 4, 0), 1.0);
  EXPECT_EQ(schedule_factor(S::constant_with_warmup, 400, 4, 0), 1.0);
  EXPECT_EQ(schedule_factor(S::constant_with_warmup, 0, 0, 0), 1.0);
  EXPECT_EQ(schedule_factor(S::linear, 1, 2, 10), 1.0);
  EXPECT_EQ(schedule_factor(S::linear, 2, 2, 10), 1.0);
  EXPECT_EQ(schedule_factor(S::linear, 8, 2, 10), 0.25);
  EXPECT_EQ(schedule_factor(S::linear, 99, 2, 10), 0.0);
  EXPECT_NEAR(schedule_factor(S::cosine, 6, 2, 10), 0.5, 1e-15);
  EXPECT_NEAR(schedule_factor(S::cosine, 4, 2, 10), (1 + std::sqrt(0.5)) / 2, 1e-15);
  EXPECT_NEAR(schedule_factor(S::cosine, 1000, 2, 10), 0.0, 1e-15);
  EXPECT(schedule_from_name("cosine") == S::cosine);
  EXPECT(schedule_from_name("constant") == S::constant_with_warmup);
  EXPECT_ERROR(schedule_from_name("polynomial"), ErrorCode::invalid_argument, "linear or cosine");
}
