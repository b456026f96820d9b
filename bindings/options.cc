#include "options.h"

#include <limits>

#include "train/training_plan.h"

namespace rlhi::bindings {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;
constexpr double kHuge = std::numeric_limits<double>::max();
// A GPU wants more rows in a product of the head than a CPU does, and has the memory.
constexpr int64_t kGpuLogitsBytes = int64_t{1} << 30;

ops::Moments moments_from_name(const std::string& name) {
  if (name == "f32") return ops::Moments::f32;
  if (name == "bf16") return ops::Moments::bf16;
  check(name == "8bit", ErrorCode::invalid_argument, "moments: expected f32, bf16 or 8bit, found \"", name, "\"");
  return ops::Moments::coded;
}

GenerateRequest read_generate_request(Napi::Value value, const std::string& where, const TokenLimits& limits) {
  const Fields fields(value, where);
  GenerateRequest r;
  r.prompt = copy_elements<int32_t>(fields.get("prompt"), fields.path("prompt"));
  check(!r.prompt.empty(), ErrorCode::invalid_argument, fields.path("prompt"), ": expected at least one token, found none");
  for (const int32_t id : r.prompt) {
    check(id >= 0 && id < limits.vocab_size, ErrorCode::invalid_argument, fields.path("prompt"), ": expected token ids in [0, ", limits.vocab_size, "), found ", id);
  }
  r.n = static_cast<int32_t>(fields.integer("n", 1, kInt32Max));
  r.max_new_tokens = static_cast<int32_t>(fields.integer("maxNewTokens", 1, kInt32Max));
  r.sampling.temperature = fields.number("temperature", 0, kHuge);
  r.sampling.top_p = fields.number("topP", std::numeric_limits<double>::min(), 1);
  r.sampling.top_k = static_cast<int32_t>(fields.integer("topK", 0, kInt32Max));
  r.sampling.min_p = fields.number("minP", 0, 1);
  r.seeds = copy_elements<uint64_t>(fields.get("seeds"), fields.path("seeds"));
  r.stop_tokens = copy_elements<int32_t>(fields.get("stopTokens"), fields.path("stopTokens"));
  const Napi::Value stops = fields.get("stopStrings");
  check(stops.IsArray(), ErrorCode::invalid_argument, fields.path("stopStrings"), ": expected an array of strings, found ", describe(stops));
  const auto list = stops.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) r.stop_strings.push_back(to_text(list.Get(i), concat(fields.path("stopStrings"), "[", i, "]")));
  return r;
}

}  // namespace

LoadRequest read_load_request(const Fields& options) {
  LoadRequest request;
  request.path = options.string("path");
  request.dtype = options.dtype("dtype");
  request.threads = static_cast<int>(options.integer("threads", 0, kMaxThreads));
  request.device = options.string_or("device", "cpu");
  ops::check_device_name(request.device);
  request.seed = static_cast<uint64_t>(options.integer_or("seed", 0, kSafeInteger, 0));
  const int64_t max_sequences = options.integer_or("maxSequences", 0, 65536, 0);
  if (max_sequences > 0) request.max_sequences = static_cast<int32_t>(max_sequences);
  request.trace = options.string_or("trace", "");
  return request;
}

TrainOptions read_train_options(Napi::Value value) {
  const Fields fields(value, "options");
  TrainOptions o;
  o.loss.type = loss_type_from_name(fields.string("lossType"));
  o.loss.beta = fields.number("beta", 0, kHuge);
  o.loss.label_smoothing = fields.number("labelSmoothing", 0, 0.5);
  o.loss.simpo_gamma = fields.number("simpoGamma", 0, kHuge);
  o.loss.rpo_alpha = fields.number("rpoAlpha", 0, kHuge);
  o.learning_rate = fields.number("learningRate", 0, kHuge);
  o.adam_beta1 = fields.number("adamBeta1", 0, 1);
  o.adam_beta2 = fields.number("adamBeta2", 0, 1);
  o.adam_epsilon = fields.number("adamEpsilon", 0, kHuge);
  o.weight_decay = fields.number("weightDecay", 0, kHuge);
  o.max_grad_norm = fields.number("maxGradNorm", 0, kHuge);
  o.gradients = fields.dtype("gradients");
  o.moments = moments_from_name(fields.string("moments"));
  o.moment_memory = moment_memory_from_name(fields.string("momentMemory"));
  const std::string schedule = fields.string("lrSchedulerType");
  o.warmup_steps = fields.integer("warmupSteps", 0, kSafeInteger);
  o.schedule = schedule_from_name(schedule);
  if (schedule == "constant") o.warmup_steps = 0;
  o.total_steps = fields.integer("totalSteps", 0, kSafeInteger);
  o.max_tokens_per_micro_batch = fields.integer("maxTokensPerMicroBatch", 1, kInt32Max);
  o.max_pair_tokens = fields.integer("maxPairTokens", 0, kInt32Max);
  o.memory_limit_bytes = fields.integer("memoryLimitBytes", 0, kSafeInteger);
  const std::string recompute = fields.string("recompute");
  if (recompute != "auto") o.recompute = recompute_from_name(recompute);
  return o;
}

ops::DeviceOptions to_device(const Napi::Value& name, const Napi::Value& threads) {
  ops::DeviceOptions device;
  device.name = to_text(name, "device");
  device.threads = static_cast<int>(to_integer(threads, "threads", 0, kMaxThreads));
  ops::check_device_name(device.name);
  return device;
}

void set_for_gpu(TrainOptions& options) {
  options.kept_logits_bytes = kGpuLogitsBytes;
  options.device_has_own_memory = true;
  options.host_memory_bytes = host_memory_for_moments();
}

bool needs_references(const TrainOptions& options) { return options.loss.type != LossType::simpo && options.loss.type != LossType::sft; }

std::vector<GenerateRequest> read_generate_requests(Napi::Value value, const TokenLimits& limits) {
  check(value.IsArray(), ErrorCode::invalid_argument, "requests: expected an array, found ", describe(value));
  const auto list = value.As<Napi::Array>();
  std::vector<GenerateRequest> requests;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::HandleScope scope(value.Env());
    requests.push_back(read_generate_request(list.Get(i), concat("requests[", i, "]"), limits));
  }
  return requests;
}

void set_shape(Napi::Object object, const ModelConfig& config) {
  const std::pair<const char*, int64_t> dimensions[] = {
    {"hiddenSize", config.hidden_size}, {"intermediateSize", config.intermediate_size}, {"layers", config.n_layers}, {"heads", config.n_heads},
    {"kvHeads", config.n_kv_heads}, {"headDim", config.head_dim}, {"vocabSize", config.vocab_size}};
  for (const auto& [name, value] : dimensions) object.Set(name, static_cast<double>(value));
}

Napi::Object plan_to_js(Napi::Env env, const MemoryPlan& plan) {
  Napi::Object result = Napi::Object::New(env);
  Napi::Array entries = Napi::Array::New(env, plan.entries.size());
  for (uint32_t i = 0; i < plan.entries.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", plan.entries[i].name);
    entry.Set("bytes", static_cast<double>(plan.entries[i].bytes));
    entries.Set(i, entry);
  }
  result.Set("entries", entries);
  Napi::Array activations = Napi::Array::New(env, plan.activations.size());
  for (uint32_t i = 0; i < plan.activations.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", plan.activations[i].name);
    entry.Set("bytes", static_cast<double>(plan.activations[i].bytes));
    entry.Set("kept", plan.activations[i].kept);
    activations.Set(i, entry);
  }
  result.Set("activations", activations);
  result.Set("recompute", recompute_name(plan.recompute));
  result.Set("total", static_cast<double>(plan.total));
  result.Set("momentMemory", moment_memory_name(plan.moment_memory));
  result.Set("momentMemoryReason", plan.moment_memory_reason);
  result.Set("hostBytes", static_cast<double>(plan.host_bytes));
  result.Set("hostLimit", static_cast<double>(plan.host_limit));
  return result;
}

}  // namespace rlhi::bindings
