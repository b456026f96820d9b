// Published shapes, for benchmarks with random weights.
#include <algorithm>

#include "base/error.h"
#include "model/config.h"

namespace rlhi {
namespace {

struct Shape {
  const char* name;
  Architecture architecture;
  int64_t hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, vocab_size, max_position;
  double rms_norm_eps, rope_theta;
  double llama3_factor;  // 0: no scaling
  bool tied_embeddings;
  int32_t bos_token_id, eos_token_id;
};

constexpr Shape kShapes[] = {
    {"smollm2-135m", Architecture::llama, 576, 1536, 30, 9, 3, 64, 49152, 8192, 1e-5, 100000, 0, true, 1, 2},
    {"smollm2-360m", Architecture::llama, 960, 2560, 32, 15, 5, 64, 49152, 8192, 1e-5, 100000, 0, true, 1, 2},
    {"llama-3.2-1b", Architecture::llama, 2048, 8192, 16, 32, 8, 64, 128256, 131072, 1e-5, 500000, 32, true, 128000, 128001},
    {"llama-3.1-8b", Architecture::llama, 4096, 14336, 32, 32, 8, 128, 128256, 131072, 1e-5, 500000, 8, false, 128000, 128001},
    {"qwen2.5-0.5b", Architecture::qwen2, 896, 4864, 24, 14, 2, 64, 151936, 32768, 1e-6, 1000000, 0, true, 151643, 151643},
    {"qwen3-0.6b", Architecture::qwen3, 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1e-6, 1000000, 0, true, 151643, 151645},
    {"mistral-7b", Architecture::mistral, 4096, 14336, 32, 32, 8, 128, 32000, 32768, 1e-5, 10000, 0, false, 1, 2},
};

const Shape* find_shape(const std::string& name) {
  const auto found = std::find_if(std::begin(kShapes), std::end(kShapes), [&](const Shape& s) { return name == s.name; });
  return found == std::end(kShapes) ? nullptr : found;
}

}  // namespace

bool is_named_shape(const std::string& name) { return find_shape(name) != nullptr; }

ModelConfig named_shape(const std::string& name) {
  const Shape* shape = find_shape(name);
  if (!shape) {
    std::string known;
    for (const Shape& s : kShapes) known += std::string(known.empty() ? "" : ", ") + s.name;
    fail(ErrorCode::invalid_argument, "no shape is called \"", name, "\"; known are ", known);
  }
  ModelConfig c;
  c.architecture = shape->architecture;
  c.hidden_size = shape->hidden_size;
  c.intermediate_size = shape->intermediate_size;
  c.n_layers = shape->n_layers;
  c.n_heads = shape->n_heads;
  c.n_kv_heads = shape->n_kv_heads;
  c.head_dim = shape->head_dim;
  c.vocab_size = shape->vocab_size;
  c.max_position = shape->max_position;
  c.rms_norm_eps = shape->rms_norm_eps;
  c.rope.theta = shape->rope_theta;
  if (shape->llama3_factor > 0) {
    c.rope.type = RopeType::llama3;
    c.rope.factor = shape->llama3_factor;
  }
  c.tied_embeddings = shape->tied_embeddings;
  c.qkv_bias = c.architecture == Architecture::qwen2;
  c.qk_norm = c.architecture == Architecture::qwen3;
  // Mistral 7B v0.1 has the window that the later versions dropped.
  c.layer_window.assign(static_cast<size_t>(c.n_layers), c.architecture == Architecture::mistral ? 4096 : 0);
  c.bos_token_id = shape->bos_token_id;
  c.eos_token_ids = {shape->eos_token_id};
  return c;
}

}  // namespace rlhi
