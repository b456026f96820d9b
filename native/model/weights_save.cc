// Writing weights as a Hugging Face folder, and their fingerprint.
#include <algorithm>
#include <cstdio>
#include <limits>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/weights.h"

namespace rlhi {
namespace {

constexpr size_t kChunkElements = size_t{1} << 20;

// Hands elements on in another type.
class Converter {
 public:
  void convert(const void* data, size_t bytes, DType from, DType to, const io::SafetensorsSink& sink) {
    if (from == to) return sink(data, bytes);
    const size_t elements = bytes / static_cast<size_t>(dtype_size(from));
    for (size_t begin = 0; begin < elements; begin += kChunkElements) {
      const size_t n = std::min(kChunkElements, elements - begin);
      if (to == DType::bf16) {
        const float* source = static_cast<const float*>(data) + begin;
        halves_.resize(n);
        std::transform(source, source + n, halves_.begin(), to_bf16);
        sink(halves_.data(), n * sizeof(bf16));
      } else {
        const bf16* source = static_cast<const bf16*>(data) + begin;
        floats_.resize(n);
        std::transform(source, source + n, floats_.begin(), [](bf16 x) { return to_float(x); });
        sink(floats_.data(), n * sizeof(float));
      }
    }
  }

 private:
  std::vector<bf16> halves_;
  std::vector<float> floats_;
};

std::vector<DeviceBytes> sources_of(const Weights& weights) {
  std::vector<DeviceBytes> sources;
  for (const NamedParameter& p : weights.parameters) sources.push_back({p.view.data, static_cast<size_t>(p.view.bytes())});
  return sources;
}

using Shard = std::vector<const NamedParameter*>;

// Whole tensors in order; a tensor larger than the limit has a shard to itself.
std::vector<Shard> cut_shards(const std::vector<NamedParameter>& parameters, DType dtype, int64_t max_shard_bytes) {
  std::vector<Shard> shards(1);
  int64_t bytes = 0;
  for (const NamedParameter& p : parameters) {
    const int64_t size = p.view.size() * dtype_size(dtype);
    if (!shards.back().empty() && bytes + size > max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&p);
    bytes += size;
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

// A file of weights without their bytes.
struct WeightFile {
  std::string path;
  std::vector<io::SafetensorsInfo> infos;
  std::vector<DType> held_as;                    // in memory, a tensor
};

WeightFile weight_file(const std::string& path, const Shard& shard, DType dtype) {
  WeightFile file;
  file.path = path;
  for (const NamedParameter* p : shard) {
    file.infos.push_back({p->name, dtype, p->shape});
    file.held_as.push_back(p->view.dtype);
  }
  return file;
}

void write_weights(const WeightFile& file, const NextBytes& next) {
  Converter converter;
  io::write_safetensors(file.path, file.infos, [&](size_t i, const io::SafetensorsSink& sink) {
    next([&](const void* data, size_t bytes) { converter.convert(data, bytes, file.held_as[i], file.infos[i].dtype, sink); });
  });
}

std::string index_text(const std::vector<Shard>& shards, DType dtype) {
  io::Json weight_map = io::Json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const NamedParameter* p : shards[i]) {
      weight_map.set(p->name, io::Json::string(shard_name(i, shards.size())));
      total += p->view.size() * dtype_size(dtype);
    }
  }
  io::Json metadata = io::Json::object();
  metadata.set("total_size", io::Json::integer(total));
  io::Json index = io::Json::object();
  index.set("metadata", std::move(metadata));
  index.set("weight_map", std::move(weight_map));
  return index.dump(2) + "\n";
}

std::string config_text(const ModelConfig& config, DType dtype, const std::string& source, const std::string& dir) {
  const char* name = dtype == DType::f32 ? "float32" : "bfloat16";
  if (source.empty()) return config_to_json(config, name);
  io::Json json = io::Json::parse(source, dir + "/config.json (as given)");
  // Releases of transformers before 4.56 call it torch_dtype; whichever is there is kept true.
  const bool old_name = json.find("torch_dtype") != nullptr;
  if (old_name) json.set("torch_dtype", io::Json::string(name));
  if (!old_name || json.find("dtype")) json.set("dtype", io::Json::string(name));
  return json.dump(2) + "\n";
}

// A file of an earlier save in the other form (one file, or shards) would be opened in place of the new one.
void remove_file(const std::string& path) {
  if (is_file(path) && std::remove(path.c_str()) != 0) fail(ErrorCode::io, path, ": cannot remove the weights of an earlier save");
}

// A folder of a model without its weights' bytes, which come in the order of the files.
struct ModelFolder {
  std::string dir, config;
  std::vector<WeightFile> files;
  std::string index;                             // "" for one file

  std::string index_path() const { return dir + "/model.safetensors.index.json"; }
};

ModelFolder model_folder(const std::string& dir, const Weights& weights, DType dtype, const std::string& source_config_json, int64_t max_shard_bytes) {
  check(dtype == DType::f32 || dtype == DType::bf16, ErrorCode::invalid_argument, "weights are saved as f32 or bf16, ", dtype_name(dtype),
        " was asked for");
  check(is_directory(dir), ErrorCode::io, dir, ": not a folder");
  ModelFolder folder;
  folder.dir = dir;
  folder.config = config_text(weights.config(), dtype, source_config_json, dir);
  const std::vector<Shard> shards = cut_shards(weights.parameters, dtype, max_shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) folder.files.push_back(weight_file(dir + "/" + shard_name(i, shards.size()), shards[i], dtype));
  if (shards.size() > 1) folder.index = index_text(shards, dtype);
  return folder;
}

void write_folder(const ModelFolder& folder, const NextBytes& next) {
  for (const WeightFile& file : folder.files) write_weights(file, next);
  if (!folder.index.empty()) {
    write_text_file(folder.index_path(), folder.index);
    remove_file(folder.dir + "/model.safetensors");
  } else {
    remove_file(folder.index_path());
  }
  write_text_file(folder.dir + "/config.json", folder.config);
}

}  // namespace

void save_parameters(const std::string& path, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend) {
  const Shard all = cut_shards(weights.parameters, dtype, std::numeric_limits<int64_t>::max()).front();
  DeviceReader reader(sources_of(weights), ops, backend);
  write_weights(weight_file(path, all, dtype), [&](const ByteSink& sink) { reader.next(sink); });
}

void save_pretrained(const std::string& dir, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend,
                     const std::string& source_config_json, int64_t max_shard_bytes) {
  const ModelFolder folder = model_folder(dir, weights, dtype, source_config_json, max_shard_bytes);
  DeviceReader reader(sources_of(weights), ops, backend);
  write_folder(folder, [&](const ByteSink& sink) { reader.next(sink); });
}

DeferredWrite take_pretrained(const std::string& dir, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend,
                              const std::string& source_config_json, int64_t max_shard_bytes, const std::atomic<bool>* abort) {
  ModelFolder folder = model_folder(dir, weights, dtype, source_config_json, max_shard_bytes);
  std::shared_ptr<const HostCopy> copy = HostCopy::take(sources_of(weights), ops, backend, abort);
  if (!copy) return nullptr;
  return [folder = std::move(folder), copy = std::move(copy)](const std::atomic<bool>& abort) { write_folder(folder, copy->reader(abort)); };
}

std::string weights_fingerprint(const Weights& weights, const ops::Table& ops, ops::Backend* backend) {
  Hash64 hash;
  // The configuration too: the same numbers under another rotary scaling give other log-probabilities.
  hash.add_text(config_to_json(weights.config(), dtype_name(weights.dtype())));
  DeviceReader reader(sources_of(weights), ops, backend);
  for (const NamedParameter& p : weights.parameters) {
    hash.add_text(p.name);
    reader.next([&](const void* data, size_t bytes) { hash.add(data, bytes); });
  }
  return to_hex(hash.digest());
}

}  // namespace rlhi
