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

constexpr int64_t kChunkElements = int64_t{1} << 20;

// Hands a parameter to `sink` in pieces, in `dtype`.
class Downloader {
 public:
  Downloader(const ops::Table& ops, ops::Backend* backend) : ops_(ops), backend_(backend) {}

  void download(const Tensor& from, DType dtype, const io::SafetensorsSink& sink) {
    const int64_t size = dtype_size(from.dtype);
    for (int64_t begin = 0; begin < from.size(); begin += kChunkElements) {
      const size_t n = static_cast<size_t>(std::min(kChunkElements, from.size() - begin));
      raw_.resize(n * static_cast<size_t>(size));
      ops_.download(backend_, raw_.data(), static_cast<const char*>(from.data) + begin * size, raw_.size());
      if (from.dtype == dtype) {
        sink(raw_.data(), raw_.size());
      } else {
        convert(n, dtype, sink);
      }
    }
  }

 private:
  void convert(size_t n, DType dtype, const io::SafetensorsSink& sink) {
    if (dtype == DType::bf16) {
      const float* from = reinterpret_cast<const float*>(raw_.data());
      halves_.resize(n);
      std::transform(from, from + n, halves_.begin(), to_bf16);
      sink(halves_.data(), n * sizeof(bf16));
    } else {
      const bf16* from = reinterpret_cast<const bf16*>(raw_.data());
      floats_.resize(n);
      std::transform(from, from + n, floats_.begin(), [](bf16 x) { return to_float(x); });
      sink(floats_.data(), n * sizeof(float));
    }
  }

  const ops::Table& ops_;
  ops::Backend* backend_;
  std::vector<char> raw_;
  std::vector<bf16> halves_;
  std::vector<float> floats_;
};

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

void write_shard(const std::string& path, const Shard& shard, DType dtype, Downloader& downloader) {
  std::vector<io::SafetensorsInfo> infos;
  for (const NamedParameter* p : shard) infos.push_back({p->name, dtype, p->shape});
  io::write_safetensors(path, infos, [&](size_t i, const io::SafetensorsSink& sink) { downloader.download(shard[i]->view, dtype, sink); });
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

}  // namespace

void save_parameters(const std::string& path, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend) {
  Downloader downloader(ops, backend);
  write_shard(path, cut_shards(weights.parameters, dtype, std::numeric_limits<int64_t>::max()).front(), dtype, downloader);
}

void save_pretrained(const std::string& dir, const Weights& weights, DType dtype, const ops::Table& ops, ops::Backend* backend,
                     const std::string& source_config_json, int64_t max_shard_bytes) {
  check(dtype == DType::f32 || dtype == DType::bf16, ErrorCode::invalid_argument, "weights are saved as f32 or bf16, ", dtype_name(dtype),
        " was asked for");
  check(is_directory(dir), ErrorCode::io, dir, ": not a folder");
  const std::string config = config_text(weights.config(), dtype, source_config_json, dir);
  const std::vector<Shard> shards = cut_shards(weights.parameters, dtype, max_shard_bytes);
  Downloader downloader(ops, backend);
  for (size_t i = 0; i < shards.size(); ++i) write_shard(dir + "/" + shard_name(i, shards.size()), shards[i], dtype, downloader);
  const std::string index = dir + "/model.safetensors.index.json";
  if (shards.size() > 1) {
    write_text_file(index, index_text(shards, dtype));
    remove_file(dir + "/model.safetensors");
  } else {
    remove_file(index);
  }
  write_text_file(dir + "/config.json", config);
}

std::string weights_fingerprint(const Weights& weights, const ops::Table& ops, ops::Backend* backend) {
  Hash64 hash;
  // The configuration too: the same numbers under another rotary scaling give other log-probabilities.
  hash.add_text(config_to_json(weights.config(), dtype_name(weights.dtype())));
  Downloader downloader(ops, backend);
  for (const NamedParameter& p : weights.parameters) {
    hash.add_text(p.name);
    downloader.download(p.view, weights.dtype(), [&](const void* data, size_t bytes) { hash.add(data, bytes); });
  }
  return to_hex(hash.digest());
}

}  // namespace rlhi
