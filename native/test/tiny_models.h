// Small random models and token ids for tests: every architecture, odd sizes, values large enough to matter.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "model/weights.h"
#include "test/backends.h"
#include "train/trainer.h"

namespace rlhi::test {

// A repeatable stream of numbers, the same on every machine.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(next() >> 11) / 9007199254740992.0; }
  // [low, high)
  int64_t integer(int64_t low, int64_t high) { return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low)); }

 private:
  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

// llama: tied, biases on q, k, v and o. mistral: window of 7. qwen2: q, k, v biases, one key head. qwen3: q/k norm, wide heads.
inline ModelConfig tiny_config(Architecture architecture) {
  ModelConfig c;
  c.architecture = architecture;
  c.vocab_size = 61, c.max_position = 128, c.n_layers = 2, c.rms_norm_eps = 1e-5;
  c.hidden_size = 48, c.intermediate_size = 72, c.n_heads = 6, c.n_kv_heads = 2, c.head_dim = 8;
  c.bos_token_id = 1, c.eos_token_ids = {2};
  switch (architecture) {
    case Architecture::llama: c.tied_embeddings = c.qkv_bias = c.o_bias = true; break;
    case Architecture::mistral: c.n_heads = c.n_kv_heads = 4, c.head_dim = 12; break;
    case Architecture::qwen2: c.qkv_bias = true, c.hidden_size = 40, c.n_heads = 5, c.n_kv_heads = 1; break;
    case Architecture::qwen3: c.qk_norm = true, c.tied_embeddings = true, c.head_dim = 16, c.n_heads = 4; break;
  }
  c.layer_window.assign(static_cast<size_t>(c.n_layers), architecture == Architecture::mistral ? 7 : 0);
  return c;
}
inline std::vector<Architecture> all_architectures() {
  return {Architecture::llama, Architecture::mistral, Architecture::qwen2, Architecture::qwen3};
}

inline void fill(Weights& weights, const ops::Device& backend, uint64_t seed, double scale = 1) {
  Numbers numbers(seed);
  for (const NamedParameter& p : weights.parameters) {
    const bool norm = !p.is_matrix && p.name.find("norm") != std::string::npos;
    std::vector<float> values(static_cast<size_t>(p.view.size()));
    for (float& v : values) v = static_cast<float>((norm ? 1 : 0) + scale * numbers.uniform(-0.2, 0.2));
    upload_floats(backend.table(), backend.handle(), p.view, values);
  }
}

struct TinyModel {
  TinyModel(const ModelConfig& config, DType dtype, const BackendChoice& choice = default_backend(), uint64_t seed = 1, int threads = 0)
      : backend(open_backend(choice, threads)), weights(config, dtype, ops(), handle()), transformer(weights, ops(), handle()) {
    fill(weights, *backend, seed);
  }
  const ops::Table& ops() const { return backend->table(); }
  ops::Backend* handle() const { return backend->handle(); }
  // Bytes or values of the weights, or of anything of this model's backend.
  std::vector<char> bytes(const Weights& of) const { return download(ops(), handle(), of.data(), of.bytes()); }
  std::vector<float> floats(const Weights& of) const {
    std::vector<float> values = download_floats(ops(), handle(), of.matrices());
    const std::vector<float> vectors = download_floats(ops(), handle(), of.vectors());
    values.insert(values.end(), vectors.begin(), vectors.end());
    return values;
  }

  std::unique_ptr<ops::Device> backend;
  Weights weights;
  Transformer transformer;
};

inline std::vector<int32_t> random_ids(Numbers& numbers, int64_t n, int64_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(numbers.integer(0, vocab));
  return ids;
}

// Lengths that are odd, one, and unlike each other.
inline std::vector<Pair> random_pairs(uint64_t seed, size_t n, int64_t vocab, int64_t longest = 24) {
  Numbers numbers(seed);
  std::vector<Pair> pairs(n);
  for (Pair& p : pairs) {
    p.prompt = random_ids(numbers, numbers.integer(1, longest), vocab);
    p.chosen = random_ids(numbers, numbers.integer(1, longest), vocab);
    p.rejected = random_ids(numbers, numbers.integer(1, longest), vocab);
    p.ref_chosen_logp = -4.0 * static_cast<double>(p.chosen.size()) + numbers.uniform(-3, 3);
    p.ref_rejected_logp = -4.0 * static_cast<double>(p.rejected.size()) + numbers.uniform(-3, 3);
  }
  return pairs;
}

}  // namespace rlhi::test
