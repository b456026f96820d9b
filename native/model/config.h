// What a checkpoint's architecture is, read from config.json or GGUF metadata.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rlhi {

namespace io { class Json; }

enum class Architecture { llama, mistral, qwen2, qwen3 };
enum class RopeType { standard, linear, llama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeType type = RopeType::standard;
  double factor = 1.0;                        // linear, llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  int64_t original_max_position = 8192;       // llama3
};

struct ModelConfig {
  Architecture architecture = Architecture::llama;
  int64_t hidden_size = 0, intermediate_size = 0, n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t vocab_size = 0, max_position = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false, o_bias = false;      // qwen2: q,k,v; llama with attention_bias: q,k,v,o
  bool qk_norm = false;                       // qwen3
  std::vector<int32_t> layer_window;          // one a layer: sliding window in tokens, 0 for full attention
  int32_t bos_token_id = -1;
  std::vector<int32_t> eos_token_ids;

  int64_t q_width() const { return n_heads * head_dim; }
  int64_t kv_width() const { return n_kv_heads * head_dim; }
  int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
};

// Throws unsupported (another architecture, an option not run) or invalid_file (missing or contradictory values), naming `where`.
ModelConfig config_from_json(const io::Json& config, const std::string& where);
// config.json's text for a Hugging Face folder that transformers opens; dtype "float32" or "bfloat16".
std::string config_to_json(const ModelConfig& config, const std::string& dtype);
// A known shape for benchmarks with random weights: "smollm2-135m", "smollm2-360m", "llama-3.2-1b", "llama-3.1-8b",
// "qwen2.5-0.5b", "qwen3-0.6b", "mistral-7b". Throws invalid_argument listing the known names.
ModelConfig named_shape(const std::string& name);
bool is_named_shape(const std::string& name);
// cos_sin table of ops.h `rope`, [positions, head_dim] f32 values, computed in f64 as transformers does (inverse frequencies in f32).
std::vector<float> rope_table(const ModelConfig& config, int64_t positions);

}  // namespace rlhi
