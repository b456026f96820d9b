#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "base/system.h"
#include "model/activations.h"
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

// A reference that was stored as float32 is compared at that resolution, so that a policy of the very same sum differs by
// nothing at all: half a unit in the last place of a sum of -1000 would move ln 2 by 2e-6.
double at_resolution_of(double reference, double sum) {
  const bool stored_as_float = reference != 0 && static_cast<double>(static_cast<float>(reference)) == reference;
  return stored_as_float ? static_cast<double>(static_cast<float>(sum)) : sum;
}

// The answers of one pair as rows of a micro-batch's output: chosen, then rejected.
struct PairRows {
  size_t pair;                           // index in the step
  int64_t begin, chosen, rejected;       // first output row; answer lengths
  int64_t end() const { return begin + chosen + rejected; }
};

enum class Pass { forward, forward_and_backward };

struct MicroBatch {
  PackedTokens tokens;
  std::vector<int32_t> output_rows, targets;
  std::vector<PairRows> pairs;
};

// Whole pairs from `first` on until the budget is full; at least one.
MicroBatch pack_micro_batch(const std::vector<Pair>& pairs, size_t first, int64_t budget) {
  MicroBatch batch;
  TreePacker packer;
  int64_t tokens = 0;
  for (size_t i = first; i < pairs.size() && (i == first || tokens + pair_tokens(pairs[i]) <= budget); ++i) {
    const Pair& p = pairs[i];
    tokens += pair_tokens(p);
    const auto placed = packer.add_tree(p.prompt, {p.chosen, p.rejected});
    batch.pairs.push_back({i, static_cast<int64_t>(batch.output_rows.size()), static_cast<int64_t>(p.chosen.size()),
                          static_cast<int64_t>(p.rejected.size())});
    for (const auto& c : placed) batch.output_rows.insert(batch.output_rows.end(), c.predictor_rows.begin(), c.predictor_rows.end());
    batch.targets.insert(batch.targets.end(), p.chosen.begin(), p.chosen.end());
    batch.targets.insert(batch.targets.end(), p.rejected.begin(), p.rejected.end());
  }
  batch.tokens = packer.take();
  return batch;
}

}  // namespace

struct Trainer::Impl {
  Impl(Weights& w, Transformer& t, const TrainOptions& o, const ops::Table& table, ops::Backend* b)
      : weights(w), transformer(t), options(checked(o, w, table, b)), ops(table), backend(b), plan(plan_training(w.config(), w.dtype(), options)),
        sizes(training_sizes(w.config(), options)), gradients(w.config(), o.gradients, table, b, DType::f32),
        adamw(w, o.moments, plan.moment_memory == MomentMemory::host, table, b),
        activations(t.plan_activations(plan.recompute, sizes.max_tokens, sizes.max_answer_tokens)),
        logits(table, b, static_cast<size_t>(sizes.kept_logit_rows * w.config().vocab_size) * sizeof(float), "logits"),
        dhidden(table, b, static_cast<size_t>(sizes.max_answer_tokens * w.config().hidden_size) * sizeof(float), "the hidden gradient"),
        logps(static_cast<size_t>(sizes.max_answer_tokens)), lse(logps.size()), dlogps(logps.size()) {}

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
  std::vector<float> logps, lse, dlogps;
  bool head_written = false, layers_written = false;  // matrices' gradients of this step
  int64_t steps_done = 0;

  // Before anything is allocated.
  static TrainOptions checked(const TrainOptions& given, const Weights& weights, const ops::Table& ops, ops::Backend* backend) {
    check_options(given);
    const int64_t available = ops.available_bytes(backend);
    TrainOptions options = given;
    if (!ops.keeps_logits(backend, weights.dtype())) options.kept_logits_bytes = 0;
    options.device_has_own_memory = !ops::is_cpu(ops);
    if (options.host_memory_bytes == 0) options.host_memory_bytes = available_memory_bytes();
    options = with_memory_limit(weights.config(), weights.dtype(), options, available);
    check_plan_fits(weights.config(), weights.dtype(), options);
    return options;
  }

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
  double sum(int64_t begin, int64_t count) const {
    double total = 0;
    for (int64_t i = begin; i < begin + count; ++i) total += logps[static_cast<size_t>(i)];
    return total;
  }

  // Losses of pairs whose logps are there; fills their dlogps for the mean over `n_pairs`; adds to the metrics' sums.
  void losses(const std::vector<Pair>& pairs, const PairRows* begin, const PairRows* end, double n_pairs, StepMetrics& sums) {
    for (const PairRows* r = begin; r != end; ++r) {
      const Pair& pair = pairs[r->pair];
      PairLogps p;
      p.ref_chosen = pair.ref_chosen_logp, p.ref_rejected = pair.ref_rejected_logp;
      p.policy_chosen = at_resolution_of(p.ref_chosen, sum(r->begin, r->chosen));
      p.policy_rejected = at_resolution_of(p.ref_rejected, sum(r->begin + r->chosen, r->rejected));
      p.chosen_length = static_cast<double>(r->chosen), p.rejected_length = static_cast<double>(r->rejected);
      const PairLoss l = preference_loss(p, options.loss);
      check(std::isfinite(l.loss), ErrorCode::internal, "the loss of pair ", r->pair, " is ", l.loss, " (log-probabilities: chosen ",
            p.policy_chosen, ", rejected ", p.policy_rejected, "); the weights were not changed");
      const auto at = dlogps.begin() + r->begin;
      std::fill(at, at + r->chosen, static_cast<float>(l.d_chosen / n_pairs));
      std::fill(at + r->chosen, at + r->chosen + r->rejected, static_cast<float>(l.d_rejected / n_pairs));
      sums.loss += l.loss;
      sums.rewards_chosen += l.reward_chosen, sums.rewards_rejected += l.reward_rejected;
      sums.rewards_margins += l.reward_chosen - l.reward_rejected;
      sums.rewards_accuracies += l.reward_chosen > l.reward_rejected ? 1 : 0;
      sums.logps_chosen += p.policy_chosen, sums.logps_rejected += p.policy_rejected;
      sums.num_tokens += pair_tokens(pair);
    }
  }

  // Head and loss, and their backward, for whole pairs: while the chunk's logits are there its loss is known.
  void head_chunk(Pass pass, const std::vector<Pair>& pairs, const MicroBatch& batch, const PairRows* begin, const PairRows* end,
                  Tensor hidden, StepMetrics& sums) {
    const int64_t first = begin->begin, n = (end - 1)->end() - first;
    const ModelConfig& c = weights.config();
    ops::LinearLogprobBackwardArgs args;
    ops::LinearLogprobArgs& forward = args.forward;
    forward.h = hidden.row_range(first, n);
    forward.w = weights.head;
    forward.packed_w = transformer.packed_head();
    forward.targets = batch.targets.data() + first;
    forward.logps = logps.data() + first, forward.lse = lse.data() + first;
    if (pass == Pass::forward_and_backward && n <= sizes.kept_logit_rows)
      forward.keep_logits = Tensor(logits.data(), DType::f32, n, c.vocab_size);
    ops.linear_logprob(backend, forward);
    losses(pairs, begin, end, static_cast<double>(pairs.size()), sums);
    if (pass == Pass::forward) return;
    args.dlogps = dlogps.data() + first;
    args.dh = Tensor(dhidden.data(), DType::f32, sizes.max_answer_tokens, c.hidden_size).row_range(first, n);
    args.dw = gradients.head;
    args.accumulate = head_written;
    ops.linear_logprob_backward(backend, args);
    head_written = true;
  }

  void run_micro_batch(Pass pass, const std::vector<Pair>& pairs, const MicroBatch& batch, StepMetrics& sums) {
    const Tensor hidden = transformer.forward(batch.tokens, batch.output_rows, *activations);
    const PairRows* const last = batch.pairs.data() + batch.pairs.size();
    for (const PairRows* begin = batch.pairs.data(); begin != last;) {
      const PairRows* end = begin + 1;
      while (end != last && (options.kept_logits_bytes == 0 || end->end() - begin->begin <= sizes.kept_logit_rows)) ++end;
      head_chunk(pass, pairs, batch, begin, end, hidden, sums);
      begin = end;
    }
    if (pass == Pass::forward) return;
    const Tensor d(dhidden.data(), DType::f32, static_cast<int64_t>(batch.output_rows.size()), weights.config().hidden_size);
    transformer.backward(batch.tokens, batch.output_rows, *activations, d, gradients, layers_written);
    layers_written = true;
  }

  // ---- one step ------------------------------------------------------------------------------------------------------
  // All micro-batches; metrics but for those of the optimizer.
  StepMetrics run_pairs(Pass pass, const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
    check_pairs(pairs);
    transformer.weights_changed();         // packs left by generation: memory that the plan does not count
    StepMetrics m;
    for (size_t done = 0; done < pairs.size();) {
      if (abort && abort->load()) fail(ErrorCode::aborted, "the step was aborted; the weights were not changed");
      const MicroBatch batch = pack_micro_batch(pairs, done, options.max_tokens_per_micro_batch);
      run_micro_batch(pass, pairs, batch, m);
      done += batch.pairs.size();
    }
    const auto n = static_cast<double>(pairs.size());
    for (double* mean : {&m.loss, &m.rewards_chosen, &m.rewards_rejected, &m.rewards_margins, &m.rewards_accuracies, &m.logps_chosen,
         &m.logps_rejected})
      *mean /= n;
    m.step = steps_done;
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

  StepMetrics accumulate(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
    clear_gradients();
    StepMetrics m = run_pairs(Pass::forward_and_backward, pairs, abort);
    m.grad_norm = std::sqrt(ops.sum_of_squares(backend, gradients.matrices()) + ops.sum_of_squares(backend, gradients.vectors()));
    check(std::isfinite(m.grad_norm), ErrorCode::internal, "the gradient's norm is ", m.grad_norm, "; the weights were not changed");
    m.learning_rate = options.learning_rate * schedule_factor(options.schedule, steps_done, options.warmup_steps, options.total_steps);
    return m;
  }

  void update(StepMetrics& m) {
    AdamW::Step s;
    s.number = steps_done + 1;
    s.lr = m.learning_rate, s.beta1 = options.adam_beta1, s.beta2 = options.adam_beta2, s.eps = options.adam_epsilon;
    s.weight_decay = options.weight_decay;
    // torch.nn.utils.clip_grad_norm_
    if (options.max_grad_norm > 0) s.grad_scale = std::min(1.0, options.max_grad_norm / (m.grad_norm + 1e-6));
    adamw.update(gradients, s);
    transformer.weights_changed();
    m.step = ++steps_done;
  }
};

Trainer::Trainer(Weights& weights, Transformer& transformer, const TrainOptions& options, const ops::Table& ops, ops::Backend* backend)
    : impl_(std::make_unique<Impl>(weights, transformer, options, ops, backend)) {}
Trainer::~Trainer() = default;

const MemoryPlan& Trainer::plan() const { return impl_->plan; }
const Weights& Trainer::gradients() const { return impl_->gradients; }
int64_t Trainer::steps_done() const { return impl_->steps_done; }

StepMetrics Trainer::accumulate_only(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  return impl_->accumulate(pairs, abort);
}

StepMetrics Trainer::evaluate(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  return impl_->run_pairs(Pass::forward, pairs, abort);
}

StepMetrics Trainer::step(const std::vector<Pair>& pairs, const std::atomic<bool>* abort) {
  StepMetrics m = impl_->accumulate(pairs, abort);
  impl_->update(m);
  return m;
}

void Trainer::save_state(const std::string& dir) const {
  save_optimizer_state(dir, impl_->weights, impl_->adamw, impl_->steps_done, impl_->ops, impl_->backend);
}

void Trainer::load_state(const std::string& dir) {
  impl_->steps_done = load_optimizer_state(dir, impl_->weights, impl_->adamw, impl_->ops, impl_->backend);
  impl_->transformer.weights_changed();
}

}  // namespace rlhi
