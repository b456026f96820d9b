// The sizes that a training run's buffers follow from.
#pragma once
#include "train/trainer.h"

namespace rlhi {

struct TrainingSizes {
  int64_t max_tokens = 0;         // of a micro-batch
  int64_t max_answer_tokens = 0;  // of a micro-batch: rows the head is applied to
  int64_t kept_logit_rows = 0;    // rows whose logits the logits buffer holds
};
TrainingSizes training_sizes(const ModelConfig& config, const TrainOptions& options);

// What a plan is free to choose, where its options leave it open.
struct MemoryChoice {
  Recompute recompute = Recompute::norms;
  MomentMemory moments = MomentMemory::device;  // device or host
};
MemoryPlan plan_of(const ModelConfig& config, DType dtype, const TrainOptions& options, const MemoryChoice& choice);

// What moments may take of the host's memory now, 0 where that is not known. An eighth of what is available, and 1 GiB at least, is left: for
// what the host itself needs while they are pinned, and for a checkpoint's files on their way to the disk.
int64_t host_memory_for_moments();

// The options with a memory limit: theirs or, without one, `available` bytes (0: not known) beside the weights, which are there already.
TrainOptions with_memory_limit(const ModelConfig& config, DType dtype, TrainOptions options, int64_t available);

// Throws out_of_memory, with the plan's sizes and what would fit, where it does not fit into the options' limits.
void check_plan_fits(const ModelConfig& config, DType dtype, const TrainOptions& options);

}  // namespace rlhi
