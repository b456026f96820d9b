// The parameters of one model, in backend memory, in one allocation. q, k, v (and gate, up) lie one after the other, so
// that one product serves them; every Hugging Face tensor is a named row range of it.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"
#include "ops/device_reader.h"
#include "ops/ops.h"

namespace rlhi {

struct LayerWeights {
  Tensor input_norm;           // [1, D]
  Tensor qkv;                  // [(H+2G)*K, D]
  Tensor qkv_bias;             // [1, (H+2G)*K] or empty
  Tensor q_norm, k_norm;       // [1, K] or empty
  Tensor o;                    // [D, H*K]
  Tensor o_bias;               // [1, D] or empty
  Tensor post_norm;            // [1, D]  (post_attention_layernorm)
  Tensor gate_up;              // [2F, D]
  Tensor down;                 // [D, F]
};

struct NamedParameter {
  std::string name;            // Hugging Face name, e.g. model.layers.0.self_attn.q_proj.weight
  Tensor view;                 // into the storage
  int64_t offset = 0;          // in elements, from the start of the storage
  bool is_matrix = false;      // two-dimensional in the checkpoint: weight decay applies
  std::vector<int64_t> shape;  // as in the checkpoint: [n] or [n, k]
};

// The layout alone: names, offsets, total elements (each tensor starts on a 64-byte boundary for both dtypes: a multiple
// of 32 elements; gaps are zero and stay zero). Matrices come first, then vectors (norms and biases): what is done to all of a kind is
// done to one piece of memory, of which the second begins at a whole block of coded moments (ops.h). Same for weights, gradients and optimizer moments.
struct ParameterLayout {
  std::vector<NamedParameter> parameters;  // view.data is null
  int64_t matrix_elements = 0, elements = 0;
};
ParameterLayout parameter_layout(const ModelConfig& config);

class Weights {
 public:
  // Uninitialised (zero) parameters of `dtype` (f32 or bf16), vectors of `vectors` if given. A gradient is a Weights with f32 vectors.
  Weights(const ModelConfig& config, DType dtype, const ops::Table& ops, ops::Backend* backend, std::optional<DType> vectors = {});
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }           // of the matrices
  int64_t elements() const { return elements_; }   // padding included
  void* data() const { return data_; }
  size_t bytes() const;
  // All of a kind, padding included: [1, n].
  Tensor matrices() const;
  Tensor vectors() const;

  Tensor embed;                // [V, D]
  std::vector<LayerWeights> layers;
  Tensor final_norm;           // [1, D]
  Tensor head;                 // [V, D]; the same memory as embed when tied
  std::vector<NamedParameter> parameters;

 private:
  ModelConfig config_;
  DType dtype_, vectors_dtype_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  void* data_ = nullptr;
  int64_t matrix_elements_ = 0, elements_ = 0;
};

// PATH: a Hugging Face folder (config.json, model.safetensors or its index and shards) or a .gguf file.
// Throws io, invalid_file, unsupported; every message names the file and the tensor.
ModelConfig load_config(const std::string& path);
std::unique_ptr<Weights> load_weights(const std::string& path, const ModelConfig& config, DType dtype, const ops::Table& ops,
                                      ops::Backend* backend, const std::function<void(double fraction)>& progress = {});
// Normal(0, 0.02) matrices, ones for norms, zero biases; the same for one seed everywhere.
std::unique_ptr<Weights> random_weights(const ModelConfig& config, DType dtype, uint64_t seed, const ops::Table& ops, ops::Backend* backend);

constexpr int64_t kMaxShardBytes = int64_t{5} << 30;

// Writes model.safetensors (or shards of at most max_shard_bytes with model.safetensors.index.json) and config.json into
// an existing folder `dir`; each file under a temporary name first, fsynced and renamed, so that a full disk or a kill
// leaves no half-written file under the final name. If `source_config_json` is not empty it is written with only dtype
// replaced (keeps fields we do not model); else config_to_json is.
void save_pretrained(const std::string& dir, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend,
                     const std::string& source_config_json = "", int64_t max_shard_bytes = kMaxShardBytes);
// The same save in two halves: takes the weights as they are, and returns what writes the files. Null where there is no room for a copy.
// `abort` is polled while they are taken: throws aborted.
DeferredWrite take_pretrained(const std::string& dir, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend,
                              const std::string& source_config_json = "", int64_t max_shard_bytes = kMaxShardBytes,
                              const std::atomic<bool>* abort = nullptr);

// All parameters in `dtype` into one safetensors file, as above.
void save_parameters(const std::string& path, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend);

// XXH64 of all parameter bytes with names, as 16 hex digits: identifies weights for cached log-probabilities.
std::string weights_fingerprint(const Weights& weights, const ops::Table& ops, ops::Backend* backend);

}  // namespace rlhi
