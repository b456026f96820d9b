// The GGUF format, versions 2 and 3, little-endian.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/mapped_file.h"
#include "io/encoding.h"

namespace rlhi::io {

// The numbers are the file's.
enum class GgufType : uint32_t {
  u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9, u64 = 10, i64 = 11, f64 = 12
};

// One metadata value. A scalar integer is an int64_t (uint64_t for u64), f32 and f64 a double. An array keeps its
// elements' type in `element`: integers and booleans are int64_t (uint64_t for u64), arrays of arrays are GgufValues.
struct GgufValue {
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, std::vector<int64_t>, std::vector<uint64_t>,
               std::vector<double>, std::vector<std::string>, std::vector<GgufValue>>
      value;

  template <class T>
  const T* get() const {  // nullptr where the value is of another kind
    return std::get_if<T>(&value);
  }
};

struct GgufTensor {
  std::string name;
  Encoding encoding = Encoding::f32;
  std::vector<int64_t> shape;     // as Hugging Face writes it: slowest dimension first (the file has the reverse)
  const uint8_t* data = nullptr;  // in the mapping
  size_t bytes = 0;
};

class GgufFile {
 public:
  // Maps the file and checks everything but the numbers themselves. Throws io, invalid_file (torn or malformed, naming
  // the byte or the tensor) or unsupported (version, big-endian, split files, a tensor type that is not read).
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }  // in file order
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufValue* find(const std::string& key) const;
  const GgufTensor* find_tensor(const std::string& name) const;

  // Typed access for keys of a known meaning; `absent` where the key is not there, invalid_file where it is of another kind.
  int64_t integer(const std::string& key, int64_t absent) const;
  double real(const std::string& key, double absent) const;
  std::string text(const std::string& key, const std::string& absent) const;

 private:
  MappedFile file_;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::unordered_map<std::string, size_t> keys_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_names_;
};

bool is_gguf_file(const std::string& path);  // a regular file that begins with GGUF's magic

}  // namespace rlhi::io
