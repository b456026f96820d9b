// The configuration in GGUF metadata.
#include <cmath>

#include "base/error.h"
#include "model/checkpoint.h"
#include "model/config_check.h"
#include "model/rope_frequencies.h"

namespace rlhi {
namespace {

using io::GgufFile;
using io::GgufTensor;
using io::GgufValue;

// The keys of one architecture: "llama.block_count" and so on.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix) + ".") {}

  int64_t required(const char* key) const {
    check(file_.find(prefix_ + key), ErrorCode::invalid_file, file_.path(), ": key ", prefix_, key, " is missing");
    return integer(key, 0);
  }
  // Some models have one number a layer; we run those whose layers agree.
  int64_t integer(const char* key, int64_t absent) const {
    const GgufValue* value = file_.find(prefix_ + key);
    const std::vector<int64_t>* list = value ? value->get<std::vector<int64_t>>() : nullptr;
    if (!list) return file_.integer(prefix_ + key, absent);
    check(!list->empty(), ErrorCode::invalid_file, file_.path(), ": key ", prefix_, key, " is an empty array");
    for (const int64_t n : *list) {
      check(n == list->front(), ErrorCode::unsupported, file_.path(), ": key ", prefix_, key, " differs between layers (", list->front(),
            " and ", n, "); one value for all layers is supported");
    }
    return list->front();
  }
  double real(const char* key, double absent) const { return file_.real(prefix_ + key, absent); }
  std::string text(const char* key, const char* absent) const { return file_.text(prefix_ + key, absent); }
  std::string name(const char* key) const { return prefix_ + key; }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

Architecture read_architecture(const GgufFile& file, int64_t window) {
  const std::string name = file.text("general.architecture", "");
  check(!name.empty(), ErrorCode::invalid_file, file.path(), ": key general.architecture is missing");
  if (name == "llama") return window > 0 ? Architecture::mistral : Architecture::llama;
  if (name == "qwen2") return Architecture::qwen2;
  if (name == "qwen3") return Architecture::qwen3;
  fail(ErrorCode::unsupported, file.path(), ": general.architecture is ", name, "; llama, qwen2 and qwen3 are supported");
}

// Llama 3.1 and later carry no rotary scaling in their metadata but a tensor with the divisor of every frequency. The
// divisors of the lowest frequencies are the factor itself; it is believed only if it explains all the others.
void read_llama3_divisors(const GgufFile& file, const Keys& keys, ModelConfig& c) {
  const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");
  if (!tensor) return;
  const int64_t n = c.head_dim / 2;
  check(tensor->shape == std::vector<int64_t>{n} && tensor->encoding == io::Encoding::f32, ErrorCode::invalid_file, file.path(),
        ": tensor rope_freqs.weight is not F32 [", n, "]");
  std::vector<float> divisors(static_cast<size_t>(n));
  io::decode(tensor->encoding, tensor->data, n, divisors.data());
  RopeConfig rope = c.rope;
  rope.type = RopeType::llama3;
  rope.factor = static_cast<double>(divisors.back());
  rope.original_max_position = keys.integer("rope.scaling.original_context_length", 8192);
  const std::vector<float> frequencies = standard_frequencies(rope.theta, c.head_dim);
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double expected = static_cast<double>(frequencies[i]) / static_cast<double>(llama3_frequency(frequencies[i], rope));
    const double found = static_cast<double>(divisors[i]);
    check(std::abs(found - expected) <= 1e-4 * expected, ErrorCode::unsupported, file.path(), ": tensor rope_freqs.weight[", i, "] is ",
          found, ", llama3 scaling with factor ", rope.factor, ", low_freq_factor 1, high_freq_factor 4 and ", rope.original_max_position,
          " original positions gives ", expected, "; only that scaling is supported");
  }
  c.rope = rope;
}

void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& c) {
  c.rope.theta = keys.real("rope.freq_base", 10000.0);
  const int64_t rotated = keys.integer("rope.dimension_count", c.head_dim);
  check(rotated == c.head_dim, ErrorCode::unsupported, file.path(), ": ", keys.name("rope.dimension_count"), " is ", rotated,
        ", head_dim is ", c.head_dim, "; rotating all of it is supported");
  const std::string type = keys.text("rope.scaling.type", "none");
  // Files older than scaling.type have the linear factor alone.
  const double old_factor = keys.real("rope.scale_linear", 1.0);
  const double factor = keys.real("rope.scaling.factor", old_factor);
  check(type == "none" || type == "linear", ErrorCode::unsupported, file.path(), ": ", keys.name("rope.scaling.type"), " is ", type,
        "; none, linear and llama3 (tensor rope_freqs.weight) are supported");
  const bool linear = (type == "linear" || file.find(keys.name("rope.scale_linear"))) && factor != 1.0;
  if (linear) {
    check(!file.find_tensor("rope_freqs.weight"), ErrorCode::unsupported, file.path(),
          ": linear rotary scaling and tensor rope_freqs.weight together");
    c.rope.type = RopeType::linear;
    c.rope.factor = factor;
    return;
  }
  read_llama3_divisors(file, keys, c);
}

void read_sizes(const GgufFile& file, const Keys& keys, ModelConfig& c) {
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  check(embedding && embedding->shape.size() == 2, ErrorCode::invalid_file, file.path(),
        ": tensor token_embd.weight is missing or not a matrix");
  c.vocab_size = embedding->shape[0];
  c.hidden_size = keys.required("embedding_length");
  c.intermediate_size = keys.required("feed_forward_length");
  c.n_layers = keys.required("block_count");
  c.n_heads = keys.required("attention.head_count");
  c.n_kv_heads = keys.integer("attention.head_count_kv", c.n_heads);
  c.max_position = keys.required("context_length");
  check(c.n_heads > 0, ErrorCode::invalid_file, file.path(), ": ", keys.name("attention.head_count"), " is ", c.n_heads);
  c.head_dim = keys.integer("attention.key_length", c.hidden_size / c.n_heads);
  const int64_t value_length = keys.integer("attention.value_length", c.head_dim);
  check(value_length == c.head_dim, ErrorCode::unsupported, file.path(), ": ", keys.name("attention.value_length"), " is ", value_length,
        ", attention.key_length ", c.head_dim, "; equal ones are supported");
  // Stored as f32: the shortest decimal of that f32 is what the model's authors wrote.
  check(file.find(keys.name("attention.layer_norm_rms_epsilon")), ErrorCode::invalid_file, file.path(), ": key ",
        keys.name("attention.layer_norm_rms_epsilon"), " is missing");
  c.rms_norm_eps = std::stod(concat(static_cast<float>(keys.real("attention.layer_norm_rms_epsilon", 0))));
  const int64_t experts = keys.integer("expert_count", 0);
  check(experts == 0, ErrorCode::unsupported, file.path(), ": ", keys.name("expert_count"), " is ", experts,
        "; dense models are supported");
}

// Biases are not in the metadata; the tensors say.
void read_biases(const GgufFile& file, ModelConfig& c) {
  c.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  c.o_bias = file.find_tensor("blk.0.attn_output.bias") != nullptr;
  const bool as_built = c.architecture == Architecture::qwen2     ? c.qkv_bias && !c.o_bias
                        : c.architecture == Architecture::mistral ? !c.qkv_bias && !c.o_bias
                                                                  : c.qkv_bias == c.o_bias;
  check(as_built, ErrorCode::unsupported, file.path(), ": biases of q, k, v ", c.qkv_bias ? "are there" : "are absent",
        ", of the attention's output ", c.o_bias ? "are there" : "are absent", ", which no ", model_class(c.architecture), " has");
}

int32_t token_id(const GgufFile& file, const char* key, int64_t vocab_size) {
  const int64_t id = file.integer(key, -1);
  check(id >= -1 && id < vocab_size, ErrorCode::invalid_file, file.path(), ": ", key, " is ", id, ", the vocabulary has ", vocab_size);
  return static_cast<int32_t>(id);
}

}  // namespace

ModelConfig config_from_gguf(const GgufFile& file) {
  const Keys keys(file, file.text("general.architecture", ""));
  const int32_t window = checked_window(keys.integer("attention.sliding_window", 0), file.path());
  ModelConfig c;
  c.architecture = read_architecture(file, window);
  check(window == 0 || c.architecture == Architecture::mistral, ErrorCode::unsupported, file.path(), ": ",
        keys.name("attention.sliding_window"), " is ", window, "; a window is supported for the llama architecture");
  read_sizes(file, keys, c);
  check_sizes(c, file.path());
  read_rope(file, keys, c);
  check_sizes(c, file.path());
  read_biases(file, c);
  c.qk_norm = c.architecture == Architecture::qwen3;
  c.tied_embeddings = file.find_tensor("output.weight") == nullptr;
  c.layer_window.assign(static_cast<size_t>(c.n_layers), window);
  c.bos_token_id = token_id(file, "tokenizer.ggml.bos_token_id", c.vocab_size);
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const int32_t id = token_id(file, key, c.vocab_size);
    if (id >= 0 && (c.eos_token_ids.empty() || c.eos_token_ids.front() != id)) c.eos_token_ids.push_back(id);
  }
  return c;
}

}  // namespace rlhi
