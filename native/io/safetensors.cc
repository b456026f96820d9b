#include "io/safetensors.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "io/json.h"

namespace rlhi::io {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

// Bytes of one element of every type the format knows; 0 for others.
size_t element_bytes(const std::string& dtype) {
  static const std::unordered_map<std::string, size_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"U16", 2}, {"I16", 2}, {"F16", 2},
      {"BF16", 2}, {"U32", 4}, {"I32", 4}, {"F32", 4},     {"U64", 8},     {"I64", 8}, {"F64", 8}, {"C64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

uint64_t read_u64(const uint8_t* from) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = (value << 8) | from[i];
  return value;
}

const Json& member(const Json& entry, const char* key, const std::string& where) {
  const Json* value = entry.find(key);
  check(value != nullptr, ErrorCode::invalid_file, where, ": ", key, " is missing");
  return *value;
}

// The bytes that a shape takes; throws where the product leaves int64.
size_t shape_bytes(const std::vector<int64_t>& shape, size_t element, const std::string& where) {
  uint64_t bytes = element;
  for (const int64_t n : shape) {
    const bool fits = !__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes) && bytes <= uint64_t{1} << 62;
    check(fits, ErrorCode::invalid_file, where, ": the shape's product is too large");
  }
  return static_cast<size_t>(bytes);
}

// Where an entry lies, relative to the first byte after the header.
struct Range {
  uint64_t begin, end;
};

Range parse_range(const Json& entry, const std::string& where) {
  const Json& offsets = member(entry, "data_offsets", where);
  check(offsets.items().size() == 2, ErrorCode::invalid_file, where, ": data_offsets has ", offsets.items().size(), " numbers, expected 2");
  const int64_t begin = offsets.items()[0].as_int(), end = offsets.items()[1].as_int();
  check(begin >= 0 && begin <= end, ErrorCode::invalid_file, where, ": data_offsets [", begin, ", ", end, "] are not a range");
  return {static_cast<uint64_t>(begin), static_cast<uint64_t>(end)};
}

SafetensorsEntry parse_entry(const std::string& name, const Json& json, const std::string& where, Range& range) {
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = member(json, "dtype", where).as_string();
  const size_t element = element_bytes(entry.dtype);
  check(element > 0, ErrorCode::unsupported, where, ": dtype ", entry.dtype, " is not known; F32, F16 and BF16 are read");
  for (const Json& n : member(json, "shape", where).items()) {
    entry.shape.push_back(n.as_int());
    check(entry.shape.back() >= 0, ErrorCode::invalid_file, where, ": shape holds ", entry.shape.back());
  }
  range = parse_range(json, where);
  entry.bytes = static_cast<size_t>(range.end - range.begin);
  const size_t expected = shape_bytes(entry.shape, element, where);
  check(entry.bytes == expected, ErrorCode::invalid_file, where, ": dtype and shape take ", expected, " bytes, data_offsets hold ",
        entry.bytes);
  return entry;
}

}  // namespace

int64_t SafetensorsEntry::elements() const {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  return n;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) { parse(); }

void SafetensorsFile::parse() {
  const std::string& path = file_.path();
  const uint64_t size = file_.size();
  check(size >= 8, ErrorCode::invalid_file, path, ": a safetensors file has at least 8 bytes, found ", size, " (is it cut off?)");
  const uint64_t header_bytes = read_u64(file_.data());
  check(header_bytes <= kMaxHeaderBytes, ErrorCode::invalid_file, path, ": not a safetensors file: its header would have ", header_bytes,
        " bytes");
  check(header_bytes <= size - 8, ErrorCode::invalid_file, path, ": cut off: the header alone needs ", header_bytes + 8, " bytes, found ",
        size);
  const char* text = reinterpret_cast<const char*>(file_.data()) + 8;
  const Json header = Json::parse(std::string_view(text, static_cast<size_t>(header_bytes)), path + ": header");
  check(header.is_object(), ErrorCode::invalid_file, path, ": the header is ", header.kind_name(), ", expected an object");

  const uint8_t* data = file_.data() + 8 + header_bytes;
  const uint64_t data_bytes = size - 8 - header_bytes;
  std::vector<Range> ranges;
  for (const JsonMember& m : header.members()) {
    const std::string where = concat(path, ": tensor ", m.key);
    try {
      if (m.key == "__metadata__") {
        for (const JsonMember& pair : m.value.members()) metadata_[pair.key] = pair.value.as_string();
        continue;
      }
      Range range{};
      tensors_.push_back(parse_entry(m.key, m.value, where, range));
      ranges.push_back(range);
    } catch (const Error& error) {  // a value of the wrong kind does not know where it stands
      if (std::string_view(error.what()).substr(0, path.size()) == path) throw;
      throw Error(error.code(), where + ": " + error.what());
    }
  }

  std::vector<size_t> order(tensors_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return ranges[a].begin != ranges[b].begin ? ranges[a].begin < ranges[b].begin : ranges[a].end < ranges[b].end;
  });
  std::vector<SafetensorsEntry> sorted;
  uint64_t next = 0;
  for (const size_t i : order) {
    check(ranges[i].begin == next, ErrorCode::invalid_file, path, ": tensor ", tensors_[i].name, " begins at byte ", ranges[i].begin,
          " of the data, expected ", next, ranges[i].begin < next ? " (tensors overlap)" : " (a hole between tensors)");
    next = ranges[i].end;
    sorted.push_back(std::move(tensors_[i]));
    // Only made into a pointer when it lies inside; the sum is checked below.
    sorted.back().data = next <= data_bytes ? data + ranges[i].begin : nullptr;
  }
  check(next == data_bytes, ErrorCode::invalid_file, path, next > data_bytes ? ": cut off: expected " : ": expected ",
        next + 8 + header_bytes, " bytes, found ", size);
  tensors_ = std::move(sorted);
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_[tensors_[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

DType float_dtype(const SafetensorsEntry& entry, const std::string& path) {
  if (entry.dtype == "F32") return DType::f32;
  if (entry.dtype == "F16") return DType::f16;
  if (entry.dtype == "BF16") return DType::bf16;
  fail(ErrorCode::unsupported, path, ": tensor ", entry.name, " has dtype ", entry.dtype, "; F32, F16 and BF16 are read");
}

// ---- folders -----------------------------------------------------------------------------------------------------------

namespace {

// A shard's name comes from a file, so it must stay inside the folder.
void check_shard_name(const std::string& name, const std::string& where) {
  const bool inside =
      !name.empty() && name.find('/') == std::string::npos && name.find('\\') == std::string::npos && name != "." && name != "..";
  check(inside, ErrorCode::invalid_file, where, ": \"", name, "\" is not a file name inside the folder");
}

std::shared_ptr<SafetensorsFile> open_shard(const std::string& folder, const std::string& name, const std::string& index_path,
                                            const std::string& tensor) {
  check_shard_name(name, index_path);
  const std::string path = folder + "/" + name;
  check(is_file(path), ErrorCode::invalid_file, path, ": this shard is missing; ", index_path, " says that it holds ", tensor);
  return std::make_shared<SafetensorsFile>(path);
}

std::vector<std::shared_ptr<SafetensorsFile>> open_index(const std::string& folder, const std::string& index_path) {
  const Json index = Json::parse(read_text_file(index_path), index_path);
  check(index.is_object(), ErrorCode::invalid_file, index_path, ": expected an object, found ", index.kind_name());
  const Json* weight_map = index.find("weight_map");
  check(weight_map && weight_map->is_object() && !weight_map->members().empty(), ErrorCode::invalid_file, index_path,
        ": weight_map is missing or empty");
  std::vector<std::shared_ptr<SafetensorsFile>> files;
  std::unordered_map<std::string, std::shared_ptr<SafetensorsFile>> by_name;
  for (const JsonMember& m : weight_map->members()) {
    check(m.value.is_string(), ErrorCode::invalid_file, index_path, ": weight_map of ", m.key, " is ", m.value.kind_name(),
          ", expected a string");
    std::shared_ptr<SafetensorsFile>& file = by_name[m.value.as_string()];
    if (!file) {
      file = open_shard(folder, m.value.as_string(), index_path, m.key);
      files.push_back(file);
    }
    check(file->find(m.key) != nullptr, ErrorCode::invalid_file, file->path(), ": tensor ", m.key, " is missing; ", index_path,
          " says that it is in this shard");
  }
  std::unordered_map<std::string, std::string> seen;
  for (const auto& file : files) {
    for (const SafetensorsEntry& entry : file->tensors()) {
      const auto [first, inserted] = seen.emplace(entry.name, file->path());
      check(inserted, ErrorCode::invalid_file, file->path(), ": tensor ", entry.name, " is also in ", first->second);
    }
  }
  return files;
}

}  // namespace

std::vector<std::shared_ptr<SafetensorsFile>> open_safetensors_folder(const std::string& folder) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (is_file(single)) return {std::make_shared<SafetensorsFile>(single)};
  if (is_file(index)) return open_index(folder, index);
  const bool pickled = is_file(folder + "/pytorch_model.bin") || is_file(folder + "/pytorch_model.bin.index.json");
  fail(ErrorCode::invalid_file, folder, ": neither model.safetensors nor model.safetensors.index.json is here",
       pickled ? "; pytorch_model.bin is a pickle and is not read: save it again with safe_serialization=True" : "");
}

}  // namespace rlhi::io
