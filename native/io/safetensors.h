// The safetensors format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes.
// https://github.com/huggingface/safetensors#format
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"
#include "base/mapped_file.h"

namespace rlhi::io {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;             // as in the file: "F32", "BF16", "F16", "I64", ...
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr; // in the mapping; not necessarily aligned for its type
  size_t bytes = 0;

  int64_t elements() const;
};

class SafetensorsFile {
 public:
  // Maps and checks the whole structure: header, every entry's bounds, shape, no overlap and no hole. Throws io or
  // invalid_file naming the file, the tensor, what was expected and what was found.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }  // in order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(const std::string& name) const;

 private:
  void parse();

  MappedFile file_;
  std::vector<SafetensorsEntry> tensors_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string, size_t> by_name_;
};

// The element type of a floating-point entry; throws unsupported naming file, tensor and dtype for any other.
DType float_dtype(const SafetensorsEntry& entry, const std::string& path);

// The files of a Hugging Face folder: model.safetensors, or the shards that model.safetensors.index.json names. Every
// tensor the index names must be in its shard and no tensor in two. Throws io or invalid_file.
std::vector<std::shared_ptr<SafetensorsFile>> open_safetensors_folder(const std::string& folder);

// ---- writing -----------------------------------------------------------------------------------------------------------

struct SafetensorsInfo {
  std::string name;
  DType dtype = DType::f32;      // f32, bf16 or f16
  std::vector<int64_t> shape;
  std::string stored_as = {};    // the file's name of the element type where DType has none, e.g. "I16" for two-byte integers

  int64_t bytes() const;
};
// Receives a tensor's bytes, in order, in any number of pieces.
using SafetensorsSink = std::function<void(const void* data, size_t bytes)>;

// Writes tensors one after the other in the given order: `fill(i, sink)` is called once a tensor and must hand exactly
// its bytes to sink. `metadata` becomes __metadata__. Atomic (base/atomic_file.h). Throws io; internal where fill hands
// too much or too little.
void write_safetensors(const std::string& path, const std::vector<SafetensorsInfo>& tensors,
                       const std::function<void(size_t index, const SafetensorsSink& sink)>& fill,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace rlhi::io
