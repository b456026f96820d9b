// Full fine-tuning on preference pairs: packing into micro-batches, forward, loss, backward, clipping, AdamW.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loss/preference.h"
#include "model/activations.h"
#include "model/transformer.h"
#include "train/schedule.h"

namespace rlhi {

struct Pair {
  std::vector<int32_t> prompt, chosen, rejected;   // each at least one token; answers end with their end-of-turn token
  double ref_chosen_logp = 0, ref_rejected_logp = 0;  // ignored by simpo and sft; a float32's value is compared as float32
};

// Where AdamW's moments lie: on the device or in the host's memory, from where each update brings them to the device and back, to the same
// bits. automatic: on the device where the plan fits, else in the host's. A CPU has one memory: to it all three are the same.
enum class MomentMemory { automatic, device, host };
const char* moment_memory_name(MomentMemory memory);              // "auto", "device", "host"
MomentMemory moment_memory_from_name(const std::string& name);    // throws invalid_argument

struct TrainOptions {
  LossOptions loss;
  // max_grad_norm 0: no clipping
  double learning_rate = 1e-6, adam_beta1 = 0.9, adam_beta2 = 0.95, adam_epsilon = 1e-8, weight_decay = 0, max_grad_norm = 1.0;
  DType gradients = DType::f32;                    // of matrices, f32 or bf16 (rounded once a micro-batch); of vectors f32
  ops::Moments moments = ops::Moments::f32;        // of AdamW
  MomentMemory moment_memory = MomentMemory::automatic;
  ScheduleType schedule = ScheduleType::constant_with_warmup;
  int64_t warmup_steps = 0, total_steps = 0;       // total_steps: for the decaying schedules
  // token budget; whole pairs are added until it is full; one pair always fits in a micro-batch of its own size
  int64_t max_tokens_per_micro_batch = 2048;
  int64_t max_pair_tokens = 0;                     // longest pair (prompt+chosen+rejected) that will come: the plan's size; 0: the budget
  int64_t memory_limit_bytes = 0;                  // 0: what the machine has available
  std::optional<Recompute> recompute;              // none given: norms, or layers where the plan does not fit otherwise
  // Logits of a chunk of whole pairs are kept between forward and backward up to this, where the backend makes use of them; above, they
  // are computed twice.
  int64_t kept_logits_bytes = int64_t{128} << 20;
  int threads = 1;                                 // of the backend, whose scratch the plan counts
  bool device_has_own_memory = false;              // a GPU; the trainer sets it by its table, whoever plans without one says it
  int64_t host_memory_bytes = 0;                   // that moments may take beside such a device; 0: not known
};

struct StepMetrics {                               // means over the step's pairs
  double loss = 0, grad_norm = 0, learning_rate = 0;
  double rewards_chosen = 0, rewards_rejected = 0, rewards_margins = 0, rewards_accuracies = 0;
  double logps_chosen = 0, logps_rejected = 0;
  int64_t num_tokens = 0;                          // computed in this step (prompt once a pair)
  int64_t step = 0;                                // optimizer steps done, this one included
};

struct PlanEntry {
  std::string name;
  size_t bytes;
};
struct MemoryPlan {
  // weights, master remainder (bf16), gradients, moments (or, where they lie in host memory, moment scales and moment staging), activations,
  // logits, hidden gradient, rope table, backend scratch
  std::vector<PlanEntry> entries;
  size_t total = 0;                                // of the device's memory, where it has its own
  Recompute recompute = Recompute::norms;
  MomentMemory moment_memory = MomentMemory::device;  // device or host
  std::string moment_memory_reason;                // a sentence without its end
  size_t host_bytes = 0;                           // of moments in host memory, not in total
  size_t host_limit = 0;                           // what they may take of it; 0: not known
  std::vector<ActivationEntry> activations;        // what the entry of that name is made of, and what is computed again
};
// What the options leave open is the first of these that fits into their memory limit, the first where there is none: norms; norms with
// moments in host memory; layers; layers with moments in host memory.
MemoryPlan plan_training(const ModelConfig& config, DType dtype, const TrainOptions& options);

class Trainer {
 public:
  // Allocates everything of the plan; throws out_of_memory with the sizes and a token budget that would fit.
  Trainer(Weights& weights, Transformer& transformer, const TrainOptions& options, const ops::Table& ops, ops::Backend* backend);
  ~Trainer();

  const MemoryPlan& plan() const;
  // One optimizer step over `pairs` (mean loss). `abort` is polled before each micro-batch: throws `aborted` and leaves
  // weights, moments and the step count as before the call. On the first non-finite loss or gradient throws internal, likewise.
  StepMetrics step(const std::vector<Pair>& pairs, const std::atomic<bool>* abort = nullptr);
  // The same in two halves, so that a backend that works beside its caller has the next step before it has done this one. begin_step gives
  // it everything, the update included, and waits for nothing; with kStepsUnderWay of them the oldest must be ended first. end_step waits for
  // the oldest and gives its metrics. What makes a step fail is known then: the update was not made, nor those of the steps begun after it,
  // whose ends throw too.
  static constexpr size_t kStepsUnderWay = 2;
  void begin_step(const std::vector<Pair>& pairs, const std::atomic<bool>* abort = nullptr);
  size_t steps_under_way() const;
  bool oldest_step_is_done() const;                // end_step would not wait
  StepMetrics end_step();
  // Loss and gradient only, no update; the gradient stays readable until the next step.
  StepMetrics accumulate_only(const std::vector<Pair>& pairs, const std::atomic<bool>* abort = nullptr);
  // The same metrics by a forward alone; grad_norm and learning_rate are 0. The gradient stays as it was.
  StepMetrics evaluate(const std::vector<Pair>& pairs, const std::atomic<bool>* abort = nullptr);
  const Weights& gradients() const;

  int64_t steps_done() const;                      // and ended
  // What follows, accumulate_only and evaluate need all steps ended.
  // optimizer.safetensors (moments, remainder, step) beside the weights that save_pretrained wrote; exact.
  void save_state(const std::string& dir) const;
  // In two halves; null where there is no room for a copy. `abort` is polled while the state is taken.
  DeferredWrite take_state(const std::string& dir, const std::atomic<bool>* abort = nullptr) const;
  void load_state(const std::string& dir);         // throws invalid_file where it belongs to another shape or dtype

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Per-token log-probabilities of continuations of prompts, by the packed forward; batch-invariant.
struct ScoreTree {
  std::vector<int32_t> prompt;
  std::vector<std::vector<int32_t>> continuations;
};
// result[tree][continuation][token]
std::vector<std::vector<std::vector<float>>> score_trees(Transformer& transformer, const std::vector<ScoreTree>& trees,
                                                         int64_t max_tokens_per_micro_batch, const ops::Table& ops,
                                                         ops::Backend* backend, const std::atomic<bool>* abort = nullptr);

}  // namespace rlhi
