#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "model/activations.h"
#include "ops/pair_loss.h"
#include "train/adamw.h"
#include "train/optimizer_state.h"
#include "train/training_plan.h"

namespace rlhi {
namespace {

void check_options(const TrainOptions& o) {
  check_loss_options(o.loss);
  const auto at_least = [](double value, double low, const char* name) {
    check(std::isfinite(value) && value >= low, ErrorCode::invalid_argument, "expected ", name, " of ", low, " or more, found ", value);
  };
  const auto below_one = [](double value, const char* name) {
    check(value >= 0 && value < 1, ErrorCode::invalid_argument, "expected ", name, " in [0, 1), found ", value);
  };
  at_least(o.learning_rate, 0, "learning_rate");
  at_least(o.weight_decay, 0, "weight_decay");
  at_least(o.max_grad_norm, 0, "max_grad_norm");
  below_one(o.adam_beta1, "adam_beta1");
  below_one(o.adam_beta2, "adam_beta2");
  check(std::isfinite(o.adam_epsilon) && o.adam_epsilon > 0, ErrorCode::invalid_argument, "expected adam_epsilon above 0, found ",
        o.adam_epsilon);
  check(o.gradients == DType::f32 || o.gradients == DType::bf16, ErrorCode::invalid_argument, "expected gradients in f32 or bf16, found ",
        dtype_name(o.gradients));
  at_least(static_cast<double>(o.warmup_steps), 0, "warmup_steps");
  at_least(static_cast<double>(o.max_tokens_per_micro_batch), 1, "max_tokens_per_micro_batch");
  at_least(static_cast<double>(o.max_pair_tokens), 0, "max_pair_tokens");
  at_least(static_cast<double>(o.memory_limit_bytes), 0, "memory_limit_bytes");
  check(o.schedule == ScheduleType::constant_with_warmup || o.total_steps > 0, ErrorCode::invalid_argument,
        "a decaying learning rate schedule needs total_steps above 0, found ", o.total_steps);
}

int64_t pair_tokens(const Pair& p) { return static_cast<int64_t>(p.prompt.size() + p.chosen.size() + p.rejected.size()); }

ops::PairRows rows_of(const Pair& p, int64_t first) {
  return {first, static_cast<int32_t>(p.chosen.size()), static_cast<int32_t>(p.rejected.size()), p.ref_chosen_logp, p.ref_rejected_logp};
}

enum class Pass { forward, forward_and_backward };

struct MicroBatch {
  PackedTokens tokens;
  std::vector<int32_t> output_rows, targets;
  std::vector<ops::PairRows> pairs;
  size_t first_pair = 0;             // of the step
};

// Whole pairs from `first` on until the budget is full; at least one.
MicroBatch pack_micro_batch(const std::vector<Pair>& pairs, size_t first, int64_t budget) {
  MicroBatch batch;
  batch.first_pair = first;
  TreePacker packer;
  int64_t tokens = 0;
  for (size_t i = first; i < pairs.size() && (i == first || tokens + pair_tokens(pairs[i]) <= budget); ++i) {
    const Pair& p = pairs[i];
    tokens += pair_tokens(p);
    const auto placed = packer.add_tree(p.prompt, {p.chosen, p.rejected});
    batch.pairs.push_back(rows_of(p, static_cast<int64_t>(batch.output_rows.size())));
    for (const auto& c : placed) batch.output_rows.insert(batch.output_rows.end(), c.predictor_rows.begin(), c.predictor_rows.end());
    batch.targets.insert(batch.targets.end(), p.chosen.begin(), p.chosen.end());
    batch.targets.insert(batch.targets.end(), p.rejected.begin(), p.rejected.end());
  }
  batch.tokens = packer.take();
  return batch;
}

int64_t end_of(const ops::PairRows& rows) { return rows.first + rows.chosen + rows.rejected; }

// What a step leaves for the host: a pair's sums each, and before them the squares of the gradient, of matrices and of vectors.
struct Results {
  static constexpr size_t kSquares = 2;
  static size_t bytes(size_t pairs) { return kSquares * sizeof(double) + pairs * sizeof(ops::PairSums); }
  void reserve(const ops::Table& ops, ops::Backend* backend, size_t pairs) {
    if (bytes(pairs) <= on_device.bytes()) return;
    on_device = DeviceBuffer(ops, backend, bytes(pairs), "a step's results");
    on_host = HostBuffer(ops, backend, bytes(pairs), "a step's results");
  }
  double* squares() const { return static_cast<double*>(on_device.data()); }
  ops::PairSums* sums() const { return reinterpret_cast<ops::PairSums*>(squares() + kSquares); }
  const double* host_squares() const { return static_cast<const double*>(on_host.data()); }
  const ops::PairSums* host_sums() const { return reinterpret_cast<const ops::PairSums*>(host_squares() + kSquares); }

  DeviceBuffer on_device;
  HostBuffer on_host;
};

// What was given to the backend of one step, and is not known to be done.
struct StepUnderWay {
  StepMetrics metrics;               // as far as the host knows them
  std::vector<ops::PairRows> pairs;  // lengths and references
  Results* results = nullptr;
  uint64_t mark = 0;
};

}  // namespace

struct Trainer::Impl {
  Impl(Weights& w, Transformer& t, const TrainOptions& o, const ops::Table& table, ops::Backend* b)
      : weights(w), transformer(t), options(checked(o, w, table, b)), ops(table), backend(b), plan(plan_training(w.config(), w.dtype(), options)),
        sizes(training_sizes(w.config(), options)), gradients(w.config(), o.gradients, table, b, DType::f32),
        adamw(w, o.moments, plan.moment_memory == MomentMemory::host, table, b),
        activations(t.plan_activations(plan.recompute, sizes.max_tokens, sizes.max_answer_tokens)),
        logits(table, b, static_cast<size_t>(sizes.kept_logit_rows * w.config().vocab_size) * sizeof(float), "logits"),
        dhidden(table, b, static_cast<size_t>(sizes.max_answer_tokens * w.config().hidden_size) * sizeof(float), "the hidden gradient"),
        answer_rows(table, b, 3 * static_cast<size_t>(sizes.max_answer_tokens) * sizeof(float), "log-probabilities"),
        factor(table, b, sizeof(float), "the clipping factor") {
    allow_updates();
  }

  Weights& weights;
  Transformer& transformer;
  TrainOptions options;
  const ops::Table& ops;
  ops::Backend* backend;
  MemoryPlan plan;
  TrainingSizes sizes;
  Weights gradients;
  AdamW adamw;
  std::unique_ptr<Transformer::Activations> activations;
  DeviceBuffer logits, dhidden;
  DeviceBuffer answer_rows;                // log-probabilities, log-sum-exps and their gradients, a row each
  DeviceBuffer factor;                     // what the gradient is multiplied by in the update; NaN from a failed step on, until that was told
  bool head_written = false, layers_written = false;  // matrices' gradients of this step
  int64_t steps_done = 0;
  std::deque<StepUnderWay> under_way;      // the oldest first
  Results results[kStepsUnderWay];
  bool failed = false;                     // an earlier one of those under way

  // Before anything is allocated.
  static TrainOptions checked(const TrainOptions& given, const Weights& weights, const ops::Table& ops, ops::Backend* backend) {
    check_options(given);
    const int64_t available = ops.available_bytes(backend);
    TrainOptions options = given;
    if (!ops.keeps_logits(backend, weights.dtype())) options.kept_logits_bytes = 0;
    options.device_has_own_memory = !ops::is_cpu(ops);
    if (options.device_has_own_memory && options.host_memory_bytes == 0) options.host_memory_bytes = host_memory_for_moments();
    options = with_memory_limit(weights.config(), weights.dtype(), options, available);
    check_plan_fits(weights.config(), weights.dtype(), options);
    return options;
  }

  void check_idle() const { check(under_way.empty(), ErrorCode::internal, under_way.size(), " steps are under way and were not ended"); }

  void check_pairs(const std::vector<Pair>& pairs) const {
    check(!pairs.empty(), ErrorCode::invalid_argument, "a step needs at least one pair");
    const ModelConfig& c = weights.config();
    for (size_t i = 0; i < pairs.size(); ++i) {
      const Pair& p = pairs[i];
      check(!p.prompt.empty() && !p.chosen.empty() && !p.rejected.empty(), ErrorCode::invalid_argument, "pair ", i,
            ": prompt, chosen and rejected need at least one token each, found ", p.prompt.size(), ", ", p.chosen.size(), " and ",
            p.rejected.size());
      const auto longest = static_cast<int64_t>(p.prompt.size() + std::max(p.chosen.size(), p.rejected.size()));
      check(longest <= c.max_position, ErrorCode::invalid_argument, "pair ", i, ": prompt and answer have ", longest,
            " tokens, more than the model's context of ", c.max_position);
      check(pair_tokens(p) <= sizes.max_tokens, ErrorCode::invalid_argument, "pair ", i, " has ", pair_tokens(p),
            " tokens, more than the ", sizes.max_tokens, " that memory was planned for (max_pair_tokens, max_tokens_per_micro_batch)");
      for (const auto* ids : {&p.prompt, &p.chosen, &p.rejected})
        for (const int32_t id : *ids)
          check(id >= 0 && id < c.vocab_size, ErrorCode::invalid_argument, "pair ", i, ": token id ", id, " is outside the vocabulary of ",
                c.vocab_size);
      check(std::isfinite(p.ref_chosen_logp) && std::isfinite(p.ref_rejected_logp), ErrorCode::invalid_argument, "pair ", i,
            ": reference log-probabilities must be finite, found ", p.ref_chosen_logp, " and ", p.ref_rejected_logp);
    }
  }

  // ---- one micro-batch -----------------------------------------------------------------------------------------------
  float* row_values(int kind) const { return static_cast<float*>(answer_rows.data()) + kind * sizes.max_answer_tokens; }
  float* logps() const { return row_values(0); }
  float* lse() const { return row_values(1); }
  float* dlogps() const { return row_values(2); }

  // Head and loss, and their backward, for whole pairs: while the chunk's logits are there its loss is known.
  void head_chunk(Pass pass, const MicroBatch& batch, size_t begin, size_t end, Tensor hidden, const StepUnderWay& step) {
    const int64_t first = batch.pairs[begin].first, n = end_of(batch.pairs[end - 1]) - first;
    const ModelConfig& c = weights.config();
    ops::LinearLogprobBackwardArgs args;
    ops::LinearLogprobArgs& forward = args.forward;
    forward.h = hidden.row_range(first, n);
    forward.w = weights.head;
    forward.packed_w = transformer.packed_head();
    forward.targets = batch.targets.data() + first;
    forward.logps = logps() + first, forward.lse = lse() + first;
    if (pass == Pass::forward_and_backward && n <= sizes.kept_logit_rows)
      forward.keep_logits = Tensor(logits.data(), DType::f32, n, c.vocab_size);
    ops.linear_logprob(backend, forward);
    ops::PreferenceLossArgs loss;
    loss.loss = options.loss;
    loss.pairs = batch.pairs.data() + begin, loss.n = static_cast<int64_t>(end - begin);
    loss.logps = logps(), loss.sums = step.results->sums() + batch.first_pair + begin;
    loss.weight = 1 / static_cast<double>(step.pairs.size());
    if (pass == Pass::forward_and_backward) loss.dlogps = dlogps();
    ops.preference_loss(backend, loss);
    if (pass == Pass::forward) return;
    args.dlogps = dlogps() + first;
    args.dh = Tensor(dhidden.data(), DType::f32, sizes.max_answer_tokens, c.hidden_size).row_range(first, n);
    args.dw = gradients.head;
    args.accumulate = head_written;
    ops.linear_logprob_backward(backend, args);
    head_written = true;
  }

  void run_micro_batch(Pass pass, const MicroBatch& batch, const StepUnderWay& step) {
    const Tensor hidden = transformer.forward(batch.tokens, batch.output_rows, *activations);
    const auto rows_fit = [&](size_t begin, size_t end) {
      return options.kept_logits_bytes == 0 || end_of(batch.pairs[end]) - batch.pairs[begin].first <= sizes.kept_logit_rows;
    };
    for (size_t begin = 0; begin < batch.pairs.size();) {
      size_t end = begin + 1;
      while (end < batch.pairs.size() && rows_fit(begin, end)) ++end;
      head_chunk(pass, batch, begin, end, hidden, step);
      begin = end;
    }
    if (pass == Pass::forward) return;
    const Tensor d(dhidden.data(), DType::f32, static_cast<int64_t>(batch.output_rows.size()), weights.config().hidden_size);
    transformer.backward(batch.tokens, batch.output_rows, *activations, d, gradients, layers_written);
    layers_written = true;
  }

  // ---- one step ------------------------------------------------------------------------------------------------------
  // All micro-batches. What they leave for the host is in the step's results.
  StepUnderWay run_pairs(Pass pass, const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
    check_pairs(pairs);
    check(under_way.size() < kStepsUnderWay, ErrorCode::internal, "a step was begun while ", under_way.size(), " are under way");
    transformer.weights_changed();         // packs left by generation: memory that the plan does not count
    StepUnderWay step;
    step.results = free_results();
    step.results->reserve(ops, backend, pairs.size());
    for (const Pair& p : pairs) {
      step.pairs.push_back(rows_of(p, 0));
      step.metrics.num_tokens += pair_tokens(p);
    }
    for (size_t done = 0; done < pairs.size();) {
      if (abort && abort->load()) fail(ErrorCode::aborted, "the step was aborted; the weights were not changed");
      const MicroBatch batch = pack_micro_batch(pairs, done, options.max_tokens_per_micro_batch);
      run_micro_batch(pass, batch, step);
      done += batch.pairs.size();
    }
    step.metrics.step = steps_done;
    return step;
  }

  Results* free_results() {
    return std::find_if(results, results + kStepsUnderWay, [&](const Results& r) {
      return std::none_of(under_way.begin(), under_way.end(), [&](const StepUnderWay& s) { return s.results == &r; });
    });
  }

  // Brings the results on their way to the host.
  void fetch_results(StepUnderWay& step) const {
    const Results& r = *step.results;
    ops.fetch(backend, r.on_host.data(), r.on_device.data(), Results::bytes(step.pairs.size()));
    step.mark = ops.mark(backend);
  }

  // Waits; throws where a loss is not finite.
  StepMetrics metrics_of(StepUnderWay& step) const {
    ops.wait(backend, step.mark);
    StepMetrics m = step.metrics;
    for (size_t i = 0; i < step.pairs.size(); ++i) {
      const ops::PairSums& sums = step.results->host_sums()[i];
      const PairLogps p = ops::logps_of(step.pairs[i], sums);
      const PairLoss l = preference_loss(p, options.loss);
      check(std::isfinite(l.loss), ErrorCode::internal, "the loss of pair ", i, " is ", l.loss, " (log-probabilities: chosen ", p.policy_chosen,
            ", rejected ", p.policy_rejected, "); the weights were not changed");
      m.loss += l.loss;
      m.rewards_chosen += l.reward_chosen, m.rewards_rejected += l.reward_rejected;
      m.rewards_margins += l.reward_chosen - l.reward_rejected;
      m.rewards_accuracies += l.reward_chosen > l.reward_rejected ? 1 : 0;
      m.logps_chosen += p.policy_chosen, m.logps_rejected += p.policy_rejected;
    }
    const auto n = static_cast<double>(step.pairs.size());
    for (double* mean : {&m.loss, &m.rewards_chosen, &m.rewards_rejected, &m.rewards_margins, &m.rewards_accuracies, &m.logps_chosen,
         &m.logps_rejected})
      *mean /= n;
    return m;
  }
  StepMetrics metrics_with_norm(StepUnderWay& step) const {
    StepMetrics m = metrics_of(step);
    m.grad_norm = std::sqrt(step.results->host_squares()[0] + step.results->host_squares()[1]);
    check(std::isfinite(m.grad_norm), ErrorCode::internal, "the gradient's norm is ", m.grad_norm, "; the weights were not changed");
    return m;
  }

  // The first product to reach a matrix's gradient writes it; the rest begins at zero.
  void clear_gradients() {
    const auto clear = [&](const Tensor& t) { ops.zero(backend, t.data, static_cast<size_t>(t.bytes())); };
    for (const NamedParameter& p : gradients.parameters) {
      if (!p.is_matrix) clear(p.view);
    }
    if (gradients.embed.data != gradients.head.data) clear(gradients.embed);
    head_written = layers_written = false;
  }

  StepUnderWay accumulate(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
    clear_gradients();
    StepUnderWay step = run_pairs(Pass::forward_and_backward, pairs, abort);
    ops.sum_of_squares(backend, gradients.matrices(), step.results->squares());
    ops.sum_of_squares(backend, gradients.vectors(), step.results->squares() + 1);
    const int64_t before = steps_done + static_cast<int64_t>(under_way.size());
    step.metrics.learning_rate = options.learning_rate * schedule_factor(options.schedule, before, options.warmup_steps, options.total_steps);
    return step;
  }

  float* clipping() const { return static_cast<float*>(factor.data()); }
  void allow_updates() {
    const float one = 1;
    ops.upload(backend, factor.data(), &one, sizeof one);
    failed = false;
  }

  void begin(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
    StepUnderWay step = accumulate(pairs, abort);
    AdamW::Step s;
    s.number = steps_done + static_cast<int64_t>(under_way.size()) + 1;
    s.lr = step.metrics.learning_rate, s.beta1 = options.adam_beta1, s.beta2 = options.adam_beta2, s.eps = options.adam_epsilon;
    s.weight_decay = options.weight_decay;
    ops.clip_factor(backend, step.results->squares(), 2, options.max_grad_norm, clipping());
    s.grad_scale = clipping();
    adamw.update(gradients, s);
    transformer.weights_changed();
    step.metrics.step = s.number;
    fetch_results(step);
    under_way.push_back(std::move(step));
  }

  StepMetrics end() {
    check(!under_way.empty(), ErrorCode::internal, "no step is under way");
    StepUnderWay step = std::move(under_way.front());
    under_way.pop_front();
    try {
      const StepMetrics m = metrics_with_norm(step);
      check(!failed, ErrorCode::internal, "the step before this one failed; the weights were not changed");
      steps_done = m.step;
      return m;
    } catch (...) {
      failed = true;
      if (under_way.empty()) allow_updates();
      throw;
    }
  }
};

Trainer::Trainer(Weights& weights, Transformer& transformer, const TrainOptions& options, const ops::Table& ops, ops::Backend* backend)
    : impl_(std::make_unique<Impl>(weights, transformer, options, ops, backend)) {}
Trainer::~Trainer() = default;

const MemoryPlan& Trainer::plan() const { return impl_->plan; }
const Weights& Trainer::gradients() const { return impl_->gradients; }
int64_t Trainer::steps_done() const { return impl_->steps_done; }

StepMetrics Trainer::accumulate_only(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  impl_->check_idle();
  StepUnderWay step = impl_->accumulate(pairs, abort);
  impl_->fetch_results(step);
  return impl_->metrics_with_norm(step);
}

StepMetrics Trainer::evaluate(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  impl_->check_idle();
  StepUnderWay step = impl_->run_pairs(Pass::forward, pairs, abort);
  impl_->fetch_results(step);
  return impl_->metrics_of(step);
}

StepMetrics Trainer::step(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  impl_->check_idle();
  impl_->begin(pairs, abort);
  return impl_->end();
}

void Trainer::begin_step(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) { impl_->begin(pairs, abort); }
size_t Trainer::steps_under_way() const { return impl_->under_way.size(); }
bool Trainer::oldest_step_is_done() const {
  return !impl_->under_way.empty() && impl_->ops.passed(impl_->backend, impl_->under_way.front().mark);
}
StepMetrics Trainer::end_step() { return impl_->end(); }

void Trainer::save_state(const std::string& dir) const {
  impl_->check_idle();
  save_optimizer_state(dir, impl_->weights, impl_->adamw, impl_->steps_done, impl_->ops, impl_->backend);
}

DeferredWrite Trainer::take_state(const std::string& dir, const std::atomic<bool>* abort) const {
  impl_->check_idle();
  return take_optimizer_state(dir, impl_->weights, impl_->adamw, impl_->steps_done, impl_->ops, impl_->backend, abort);
}

void Trainer::load_state(const std::string& dir) {
  impl_->check_idle();
  impl_->steps_done = load_optimizer_state(dir, impl_->weights, impl_->adamw, impl_->ops, impl_->backend);
  impl_->transformer.weights_changed();
}

}  // namespace rlhi
