// Every buffer of training, counted before the first is allocated.
#include <algorithm>

#include "train/adamw.h"
#include "train/training_plan.h"

namespace rlhi {
namespace {

// What a backend holds for its own work, which no buffer of ours covers: a product's operands packed as f32 (the second at most
// 96 MiB at once: a weight, or the tokens' rows in a weight's gradient), a block of 2048 logits a row, and for each thread what
// is largest of a tree's gradients of keys and values and a task's rows of a product, with half a MiB of tiles.
size_t backend_scratch_bytes(const ModelConfig& c, const TrainingSizes& s, int threads) {
  constexpr int64_t kTaskRows = 72;
  const int64_t widest = std::max({2 * c.intermediate_size, c.qkv_width(), c.hidden_size});
  const int64_t operand = std::max({c.hidden_size, c.intermediate_size, c.q_width()});
  const auto bytes = [](int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); };
  const size_t second_operand = std::min(bytes(std::max(widest * c.hidden_size, s.max_tokens * operand)), size_t{96} << 20);
  const int64_t keys_and_values = 2 * s.max_tokens * (c.head_dim + 31) / 32 * 32, task_rows = kTaskRows * std::max(s.max_tokens, operand);
  return bytes(s.max_tokens * (widest + 2048)) + second_operand +
         static_cast<size_t>(threads) * bytes(std::max(keys_and_values, task_rows) + (int64_t{1} << 17));
}

}  // namespace

TrainingSizes training_sizes(const ModelConfig& config, const TrainOptions& options) {
  TrainingSizes s;
  s.max_tokens = std::max(options.max_tokens_per_micro_batch, options.max_pair_tokens);
  s.max_answer_tokens = s.max_tokens;  // an answer token each row at most
  const auto row_bytes = static_cast<int64_t>(config.vocab_size * dtype_size(DType::f32));
  s.kept_logit_rows = std::min<int64_t>(s.max_answer_tokens, options.kept_logits_bytes / row_bytes);
  return s;
}

MemoryPlan plan_of(const ModelConfig& config, DType dtype, const TrainOptions& options, const MemoryChoice& choice) {
  const TrainingSizes s = training_sizes(config, options);
  const ParameterLayout layout = parameter_layout(config);
  const auto elements = static_cast<size_t>(layout.elements), matrix_elements = static_cast<size_t>(layout.matrix_elements);
  const auto floats = [](int64_t n) { return static_cast<size_t>(n) * sizeof(float); };
  MemoryPlan plan;
  plan.recompute = choice.recompute;
  plan.moment_memory = choice.moments;
  plan.host_limit = static_cast<size_t>(options.host_memory_bytes);
  plan.activations = activation_table(config, dtype, plan.recompute, s.max_tokens, s.max_answer_tokens);
  const auto add = [&](const char* name, size_t bytes) {
    if (bytes > 0) plan.entries.push_back({name, bytes});
    plan.total += bytes;
  };
  add("weights", elements * static_cast<size_t>(dtype_size(dtype)));
  add("master remainder", dtype == DType::bf16 ? elements * sizeof(int16_t) : 0);
  add("gradients", matrix_elements * static_cast<size_t>(dtype_size(options.gradients)) + (elements - matrix_elements) * sizeof(float));
  const size_t moments = 2 * elements * static_cast<size_t>(moment_size(options.moments));
  const size_t scales = options.moments == ops::Moments::coded ? 2 * floats(moment_scales(layout.elements)) : 0;
  if (choice.moments == MomentMemory::host) {
    plan.host_bytes = moments;
    add("moment scales", scales);
    add("moment staging", static_cast<size_t>(ops::moment_staging_bytes(layout.elements, options.moments)));
  } else {
    add("moments", moments + scales);
  }
  add("activations", lay_out_training(config, dtype, plan.recompute, s.max_tokens, s.max_answer_tokens, nullptr).bytes);
  add("logits", floats(s.kept_logit_rows * config.vocab_size));
  add("hidden gradient", floats(s.max_answer_tokens * config.hidden_size));
  add("log-probabilities", floats(3 * s.max_answer_tokens));
  // The table grows by doubling.
  add("rope table", floats(std::min(std::max<int64_t>(2 * s.max_tokens, 512), config.max_position) * config.head_dim));
  add("backend scratch", backend_scratch_bytes(config, s, options.threads));
  return plan;
}

}  // namespace rlhi
