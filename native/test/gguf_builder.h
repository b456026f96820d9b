// Builds GGUF files byte by byte, right or wrong on purpose.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "test/temp_dir.h"

namespace rlhi::test {

inline std::string gguf_text(const std::string& text) { return bytes_of<uint64_t>(text.size()) + text; }

class GgufBuilder {
 public:
  // `payload` is the value in the file's bytes; `type` its number in the format.
  GgufBuilder& key(const std::string& name, uint32_t type, const std::string& payload) {
    keys_ += gguf_text(name) + bytes_of(type) + payload;
    ++n_keys_;
    return *this;
  }
  GgufBuilder& text(const std::string& name, const std::string& value) { return key(name, 8, gguf_text(value)); }
  GgufBuilder& u32(const std::string& name, uint32_t value) { return key(name, 4, bytes_of(value)); }
  GgufBuilder& f32(const std::string& name, float value) { return key(name, 6, bytes_of(value)); }
  // `extents` fastest first, as the file has them.
  GgufBuilder& tensor(const std::string& name, const std::vector<uint64_t>& extents, uint32_t type, const std::string& data) {
    infos_ += gguf_text(name) + bytes_of(static_cast<uint32_t>(extents.size()));
    for (const uint64_t n : extents) infos_ += bytes_of(n);
    infos_ += bytes_of(type) + bytes_of<uint64_t>(data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    ++n_tensors_;
    return *this;
  }
  GgufBuilder& floats(const std::string& name, const std::vector<uint64_t>& extents, const std::vector<float>& values) {
    std::string data;
    for (const float v : values) data += bytes_of(v);
    return tensor(name, extents, 0, data);
  }
  std::string bytes() const {
    std::string out = "GGUF" + bytes_of(version) + bytes_of(n_tensors_) + bytes_of(n_keys_) + keys_ + infos_;
    out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data_;
  }

  uint32_t version = 3;
  size_t alignment = 32;

 private:
  std::string keys_, infos_, data_;
  uint64_t n_keys_ = 0, n_tensors_ = 0;
};

}  // namespace rlhi::test
