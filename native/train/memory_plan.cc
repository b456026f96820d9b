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
std::string mib(size_t bytes) { return concat((bytes + (size_t{1} << 20) - 1) >> 20, " MiB"); }

// What a plan may take; 0: not known.
size_t memory_limit(const ModelConfig& config, DType dtype, const TrainOptions& options, int64_t available) {
  if (options.memory_limit_bytes > 0) return static_cast<size_t>(options.memory_limit_bytes);
  if (available == 0) return 0;
  const auto weights = static_cast<size_t>(parameter_layout(config).elements * dtype_size(dtype));  // which are there already
  return static_cast<size_t>(available) + weights;
}

size_t total_with_recompute(const ModelConfig& config, DType dtype, TrainOptions options, Recompute level) {
  options.recompute = level;
  return plan_training(config, dtype, options).total;
}

size_t total_with_budget(const ModelConfig& config, DType dtype, TrainOptions options, int64_t budget) {
  options.max_tokens_per_micro_batch = budget;
  return plan_training(config, dtype, options).total;
}

// The largest budget whose plan takes at most `limit` bytes, or 0.
int64_t largest_budget(const ModelConfig& config, DType dtype, const TrainOptions& options, size_t limit) {
  int64_t fits = 0, too_large = options.max_tokens_per_micro_batch;
  for (int64_t low = std::max<int64_t>(1, options.max_pair_tokens); low < too_large;) {
    const int64_t middle = low + (too_large - low) / 2;
    if (total_with_budget(config, dtype, options, middle) <= limit) fits = middle, low = middle + 1;
    else too_large = middle;
  }
  return fits;
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

TrainOptions with_recompute(const ModelConfig& config, DType dtype, TrainOptions options, int64_t available) {
  if (options.recompute) return options;
  const size_t limit = memory_limit(config, dtype, options, available);
  const bool fits = limit == 0 || total_with_recompute(config, dtype, options, Recompute::norms) <= limit;
  options.recompute = fits ? Recompute::norms : Recompute::layers;
  return options;
}

MemoryPlan plan_training(const ModelConfig& config, DType dtype, const TrainOptions& given) {
  const TrainOptions options = with_recompute(config, dtype, given, 0);
  const TrainingSizes s = training_sizes(config, options);
  const ParameterLayout layout = parameter_layout(config);
  const auto elements = static_cast<size_t>(layout.elements), matrix_elements = static_cast<size_t>(layout.matrix_elements);
  const auto floats = [](int64_t n) { return static_cast<size_t>(n) * sizeof(float); };
  MemoryPlan plan;
  plan.recompute = *options.recompute;
  plan.activations = activation_table(config, dtype, plan.recompute, s.max_tokens, s.max_answer_tokens);
  const auto add = [&](const char* name, size_t bytes) {
    if (bytes > 0) plan.entries.push_back({name, bytes});
    plan.total += bytes;
  };
  add("weights", elements * static_cast<size_t>(dtype_size(dtype)));
  add("master remainder", dtype == DType::bf16 ? elements * sizeof(int16_t) : 0);
  add("gradients", matrix_elements * static_cast<size_t>(dtype_size(options.gradients)) + (elements - matrix_elements) * sizeof(float));
  const size_t scales = options.moments == ops::Moments::coded ? floats(moment_scales(layout.elements)) : 0;
  add("moments", 2 * (elements * static_cast<size_t>(moment_size(options.moments)) + scales));
  add("activations", lay_out_training(config, dtype, plan.recompute, s.max_tokens, s.max_answer_tokens, nullptr).bytes);
  add("logits", floats(s.kept_logit_rows * config.vocab_size));
  add("hidden gradient", floats(s.max_answer_tokens * config.hidden_size));
  add("log-probabilities", floats(3 * s.max_answer_tokens));
  // The table grows by doubling.
  add("rope table", floats(std::min(std::max<int64_t>(2 * s.max_tokens, 512), config.max_position) * config.head_dim));
  add("backend scratch", backend_scratch_bytes(config, s, options.threads));
  return plan;
}

void check_plan_fits(const ModelConfig& config, DType dtype, const TrainOptions& options, int64_t available) {
  const MemoryPlan plan = plan_training(config, dtype, options);
  const size_t limit = memory_limit(config, dtype, options, available);
  if (limit == 0 || plan.total <= limit) return;
  std::string sizes;
  for (const PlanEntry& e : plan.entries) sizes += concat(sizes.empty() ? "" : ", ", e.name, " ", mib(e.bytes));
  const int64_t budget = largest_budget(config, dtype, options, limit), smallest = std::max<int64_t>(1, options.max_pair_tokens);
  const bool layers_fit = plan.recompute != Recompute::layers && total_with_recompute(config, dtype, options, Recompute::layers) <= limit;
  const std::string advice = layers_fit ? "recompute layers would fit"
                             : budget > 0 ? concat("max_tokens_per_micro_batch ", budget, " would fit")
                                        : concat("no max_tokens_per_micro_batch would fit: pairs of ", smallest, " tokens need ",
                                                 mib(total_with_budget(config, dtype, options, smallest)));
  fail(ErrorCode::out_of_memory, "training with max_tokens_per_micro_batch ", options.max_tokens_per_micro_batch, " and recompute ",
       recompute_name(plan.recompute), " needs ", mib(plan.total), " (", sizes, ") and may use ", mib(limit), "; ", advice);
}

}  // namespace rlhi
