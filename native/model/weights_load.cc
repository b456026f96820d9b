// Reading a checkpoint into weights.
#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "io/json.h"
#include "model/checkpoint.h"
#include "model/weights.h"

namespace rlhi {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 18;  // decoded at a time: stays in the cache until it is uploaded

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// What generation stops at is the generation configuration's word where there is one, as in transformers.
void read_generation_config(const std::string& path, ModelConfig& config) {
  if (!is_file(path)) return;
  const io::Json json = io::Json::parse(read_text_file(path), path);
  const io::Json* eos = json.is_object() ? json.find("eos_token_id") : nullptr;
  if (!eos || eos->is_null()) return;
  const io::Json::Array one = {*eos};
  std::vector<int32_t> ids;
  for (const io::Json& id : eos->is_array() ? eos->items() : one) {
    check(id.is_integer() && id.as_int() >= 0 && id.as_int() < config.vocab_size, ErrorCode::invalid_file, path, ": eos_token_id holds ",
          id.dump(), ", the vocabulary has ", config.vocab_size);
    ids.push_back(static_cast<int32_t>(id.as_int()));
  }
  if (!ids.empty()) config.eos_token_ids = ids;
}

class Uploader {
 public:
  Uploader(DType dtype, const ops::Table& ops, ops::Backend* backend) : dtype_(dtype), ops_(ops), backend_(backend) {}

  void upload(const NamedParameter& to, const CheckpointTensor& from) {
    const io::Encoding as_is = dtype_ == DType::f32 ? io::Encoding::f32 : io::Encoding::bf16;
    if (from.encoding == as_is && from.paired_rows == 0) {
      return ops_.upload(backend_, to.view.data, from.data, static_cast<size_t>(to.view.bytes()));
    }
    const int64_t length = checkpoint_row_length(from);
    const int64_t rows = to.view.size() / length;
    const int64_t rows_at_once = std::max<int64_t>(1, kChunkElements / length);
    for (int64_t row = 0; row < rows; row += rows_at_once) {
      const int64_t n = std::min(rows_at_once, rows - row);
      floats_.resize(static_cast<size_t>(n * length));
      decode_rows(from, row, n, floats_.data());
      upload_floats(static_cast<char*>(to.view.data) + row * length * dtype_size(dtype_));
    }
  }

 private:
  void upload_floats(void* to) {
    if (dtype_ == DType::f32) return ops_.upload(backend_, to, floats_.data(), floats_.size() * sizeof(float));
    halves_.resize(floats_.size());
    for (size_t i = 0; i < floats_.size(); ++i) halves_[i] = to_bf16(floats_[i]);
    ops_.upload(backend_, to, halves_.data(), halves_.size() * sizeof(bf16));
  }

  DType dtype_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  std::vector<float> floats_;
  std::vector<bf16> halves_;
};

// Every tensor the model needs with its shape, and none that it does not know.
void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config, const std::vector<NamedParameter>& parameters) {
  std::unordered_set<std::string> known;
  for (const NamedParameter& p : parameters) {
    known.insert(p.name);
    const auto found = checkpoint.tensors.find(p.name);
    check(found != checkpoint.tensors.end(), ErrorCode::invalid_file, checkpoint.path, ": tensor ", p.name, " ", shape_text(p.shape),
          " is missing");
    check(found->second.shape == p.shape, ErrorCode::invalid_file, checkpoint.path, ": tensor ", p.name, " has shape ",
          shape_text(found->second.shape), ", expected ", shape_text(p.shape));
  }
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const bool tied_copy = config.tied_embeddings && name == "lm_head.weight";
    if (!known.contains(name) && !tied_copy) unexpected.push_back(name + " " + shape_text(tensor.shape));
  }
  if (unexpected.empty()) return;
  std::sort(unexpected.begin(), unexpected.end());
  fail(ErrorCode::invalid_file, checkpoint.path, ": tensor ", unexpected[0], " is not one of this architecture's",
       unexpected.size() > 1 ? concat(" (nor are ", unexpected.size() - 1, " others)") : "");
}

}  // namespace

ModelConfig load_config(const std::string& path) {
  if (!is_directory(path)) {
    check(is_file(path), ErrorCode::io, path, ": no such Hugging Face folder or GGUF file");
    return config_from_gguf(io::GgufFile(path));
  }
  const std::string file = path + "/config.json";
  check(is_file(file), ErrorCode::invalid_file, path, ": not a Hugging Face folder: config.json is missing");
  ModelConfig config = config_from_json(io::Json::parse(read_text_file(file), file), file);
  read_generation_config(path + "/generation_config.json", config);
  return config;
}

std::unique_ptr<Weights> load_weights(const std::string& path, const ModelConfig& config, DType dtype, const ops::Table& ops,
                                      ops::Backend* backend, const std::function<void(double fraction)>& progress) {
  const Checkpoint checkpoint = open_checkpoint(path, config);
  // Checked before memory is taken, so that a wrong file is not reported as a lack of memory.
  check_tensors(checkpoint, config, parameter_layout(config).parameters);
  auto weights = std::make_unique<Weights>(config, dtype, ops, backend);
  Uploader uploader(dtype, ops, backend);
  int64_t done = 0;
  for (const NamedParameter& p : weights->parameters) {
    uploader.upload(p, checkpoint.tensors.at(p.name));
    done += p.view.size();
    if (progress) progress(static_cast<double>(done) / static_cast<double>(weights->elements()));
  }
  if (progress) progress(1.0);
  return weights;
}

}  // namespace rlhi
