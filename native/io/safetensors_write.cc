// Writing safetensors files as a stream: the header is known before the first tensor's bytes are.
#include "base/atomic_file.h"
#include "base/error.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace rlhi::io {
namespace {

const char* file_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f16: return "F16";
    case DType::i32: return "I32";
    case DType::u8: return "U8";
  }
  return "";
}

std::string header_text(const std::vector<SafetensorsInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  Json facts = Json::object();
  for (const auto& [key, value] : metadata) facts.set(key, Json::string(value));
  Json header = Json::object();
  header.set("__metadata__", std::move(facts));
  int64_t begin = 0;
  for (const SafetensorsInfo& info : tensors) {
    Json shape = Json::array();
    for (const int64_t n : info.shape) shape.push_back(Json::integer(n));
    Json offsets = Json::array({Json::integer(begin), Json::integer(begin + info.bytes())});
    begin += info.bytes();
    Json entry = Json::object();
    entry.set("dtype", Json::string(info.stored_as.empty() ? file_dtype(info.dtype) : info.stored_as));
    entry.set("shape", std::move(shape));
    entry.set("data_offsets", std::move(offsets));
    header.set(info.name, std::move(entry));
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begin on an 8-byte boundary
  return text;
}

}  // namespace

int64_t SafetensorsInfo::bytes() const {
  int64_t n = dtype_size(dtype);
  for (const int64_t extent : shape) n *= extent;
  return n;
}

void write_safetensors(const std::string& path, const std::vector<SafetensorsInfo>& tensors,
                       const std::function<void(size_t index, const SafetensorsSink& sink)>& fill,
                       const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path);
  const std::string header = header_text(tensors, metadata);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(static_cast<uint64_t>(header.size()) >> (8 * i));
  file.write(length, sizeof length);
  file.write(header.data(), header.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t expected = static_cast<uint64_t>(tensors[i].bytes());
    const uint64_t before = file.written();
    fill(i, [&](const void* data, size_t bytes) {
      check(file.written() - before + bytes <= expected, ErrorCode::internal, path, ": more than ", expected, " bytes for ",
            tensors[i].name);
      file.write(data, bytes);
    });
    check(file.written() - before == expected, ErrorCode::internal, path, ": ", file.written() - before, " bytes for ", tensors[i].name,
          ", expected ", expected);
  }
  file.commit();
}

}  // namespace rlhi::io
