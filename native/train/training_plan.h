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

// The options with a level of recomputation: theirs, or norms, or layers where norms do not fit in the same memory as below.
TrainOptions with_recompute(const ModelConfig& config, DType dtype, TrainOptions options, int64_t available);

// Throws out_of_memory, with the plan's sizes and the token budget that would fit, where it does not fit into the options'
// limit or, without one, into `available` bytes (0: not known) beside the weights, which are there already.
void check_plan_fits(const ModelConfig& config, DType dtype, const TrainOptions& options, int64_t available);

}  // namespace rlhi
