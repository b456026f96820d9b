#include "io/gguf.h"

#include <cstdio>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace rlhi::io {
namespace {

constexpr int kMaxArrayDepth = 8;

// Reads forward through the mapping; every read is checked against the file's end.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  template <class T>
  T number(const std::string& what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string text(const std::string& what) {
    const uint64_t length = number<uint64_t>(what + " (length)");
    need(length, what);
    std::string value(reinterpret_cast<const char*>(file_.data()) + at_, static_cast<size_t>(length));
    at_ += static_cast<size_t>(length);
    return value;
  }
  void need(uint64_t bytes, const std::string& what) const {
    check(bytes <= left(), ErrorCode::invalid_file, file_.path(), ": cut off or malformed at byte ", at_, ": ", what, " needs ", bytes,
          " bytes, the file has ", left(), " more (", file_.size(), " in all)");
  }
  uint64_t left() const { return file_.size() - at_; }
  uint64_t at() const { return at_; }
  const std::string& path() const { return file_.path(); }

 private:
  const MappedFile& file_;
  size_t at_ = 0;
};

size_t type_bytes(GgufType type) {  // least bytes of one value
  switch (type) {
    case GgufType::u8: case GgufType::i8: case GgufType::boolean: return 1;
    case GgufType::u16: case GgufType::i16: return 2;
    case GgufType::u32: case GgufType::i32: case GgufType::f32: return 4;
    case GgufType::u64: case GgufType::i64: case GgufType::f64: case GgufType::string: return 8;
    case GgufType::array: return 12;
  }
  return 0;
}

GgufType read_type(Cursor& in, const std::string& what) {
  const uint64_t at = in.at();
  const uint32_t type = in.number<uint32_t>(what + " (type)");
  check(type <= 12, ErrorCode::invalid_file, in.path(), ": malformed at byte ", at, ": ", what, " has value type ", type,
        ", 0 to 12 are known");
  return static_cast<GgufType>(type);
}

bool read_bool(Cursor& in, const std::string& what) {
  const uint64_t at = in.at();
  const uint8_t value = in.number<uint8_t>(what);
  check(value <= 1, ErrorCode::invalid_file, in.path(), ": malformed at byte ", at, ": ", what, " is a boolean of value ",
        static_cast<int>(value));
  return value == 1;
}

int64_t read_integer(Cursor& in, GgufType type, const std::string& what) {
  switch (type) {
    case GgufType::u8: return in.number<uint8_t>(what);
    case GgufType::i8: return in.number<int8_t>(what);
    case GgufType::u16: return in.number<uint16_t>(what);
    case GgufType::i16: return in.number<int16_t>(what);
    case GgufType::u32: return in.number<uint32_t>(what);
    case GgufType::i32: return in.number<int32_t>(what);
    case GgufType::i64: return in.number<int64_t>(what);
    case GgufType::boolean: return read_bool(in, what) ? 1 : 0;
    default: fail(ErrorCode::internal, "not an integer type");
  }
}

double read_real(Cursor& in, GgufType type, const std::string& what) {
  return type == GgufType::f32 ? static_cast<double>(in.number<float>(what)) : in.number<double>(what);
}

GgufValue read_array(Cursor& in, const std::string& what, int depth);

GgufValue read_value(Cursor& in, GgufType type, const std::string& what, int depth) {
  GgufValue result;
  result.type = type;
  switch (type) {
    case GgufType::boolean: result.value = read_bool(in, what); break;
    case GgufType::u64: result.value = in.number<uint64_t>(what); break;
    case GgufType::f32: case GgufType::f64: result.value = read_real(in, type, what); break;
    case GgufType::string: result.value = in.text(what); break;
    case GgufType::array: return read_array(in, what, depth + 1);
    default: result.value = read_integer(in, type, what);
  }
  return result;
}

GgufValue read_array(Cursor& in, const std::string& what, int depth) {
  check(depth <= kMaxArrayDepth, ErrorCode::invalid_file, in.path(), ": malformed at byte ", in.at(), ": ", what,
        " nests arrays deeper than ", kMaxArrayDepth);
  GgufValue result;
  result.type = GgufType::array;
  result.element = read_type(in, what);
  const uint64_t count = in.number<uint64_t>(what + " (count)");
  // Checked before anything is reserved: a torn count must not ask for terabytes.
  check(count <= in.left() / type_bytes(result.element), ErrorCode::invalid_file, in.path(), ": cut off or malformed at byte ", in.at(),
        ": ", what, " would have ", count, " elements, the file has ", in.left(), " more bytes");
  const size_t n = static_cast<size_t>(count);
  const auto fill = [&](auto list, const auto& read) {
    list.reserve(n);
    for (size_t i = 0; i < n; ++i) list.push_back(read());
    result.value = std::move(list);
  };
  switch (result.element) {
    case GgufType::u64: fill(std::vector<uint64_t>(), [&] { return in.number<uint64_t>(what); }); break;
    case GgufType::f32: case GgufType::f64: fill(std::vector<double>(), [&] { return read_real(in, result.element, what); }); break;
    case GgufType::string: fill(std::vector<std::string>(), [&] { return in.text(what); }); break;
    case GgufType::array: fill(std::vector<GgufValue>(), [&] { return read_array(in, what, depth + 1); }); break;
    default: fill(std::vector<int64_t>(), [&] { return read_integer(in, result.element, what); });
  }
  return result;
}

// ggml's tensor types by their number, for messages; the holes are types it has dropped.
const char* ggml_type_name(uint32_t type) {
  static const char* const names[] = {
      "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
      "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
      "BF16"};
  return type < std::size(names) ? names[type] : "";
}

Encoding read_encoding(Cursor& in, const std::string& tensor) {
  const uint64_t at = in.at();
  const uint32_t type = in.number<uint32_t>("tensor " + tensor + " (type)");
  switch (type) {
    case 0: return Encoding::f32;
    case 1: return Encoding::f16;
    case 2: return Encoding::q4_0;
    case 3: return Encoding::q4_1;
    case 8: return Encoding::q8_0;
    case 30: return Encoding::bf16;
    default: break;
  }
  fail(ErrorCode::unsupported, in.path(), ": tensor ", tensor, " (its type at byte ", at, ") has type ", type, " ", ggml_type_name(type),
       "; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read");
}

struct TensorInfo {
  GgufTensor tensor;
  uint64_t offset = 0;  // from the start of the data
};

TensorInfo read_tensor_info(Cursor& in, uint64_t index) {
  TensorInfo info;
  GgufTensor& t = info.tensor;
  t.name = in.text(concat("the name of tensor ", index));
  const std::string what = "tensor " + t.name;
  const uint64_t at = in.at();
  const uint32_t n_dims = in.number<uint32_t>(what + " (dimensions)");
  check(n_dims >= 1 && n_dims <= 4, ErrorCode::invalid_file, in.path(), ": malformed at byte ", at, ": ", what, " has ", n_dims,
        " dimensions, expected 1 to 4");
  uint64_t elements = 1;
  for (uint32_t i = 0; i < n_dims; ++i) {
    const uint64_t extent = in.number<uint64_t>(what + " (shape)");
    const bool fits = extent >= 1 && !__builtin_mul_overflow(elements, extent, &elements) && elements <= uint64_t{1} << 48;
    check(fits, ErrorCode::invalid_file, in.path(), ": malformed at byte ", in.at() - 8, ": ", what, " has an extent of ", extent);
    t.shape.insert(t.shape.begin(), static_cast<int64_t>(extent));
  }
  t.encoding = read_encoding(in, t.name);
  const int64_t block = encoding_block_elements(t.encoding);
  check(t.shape.back() % block == 0, ErrorCode::invalid_file, in.path(), ": ", what, " has rows of ", t.shape.back(), " numbers, ",
        encoding_name(t.encoding), " needs a multiple of ", block);
  t.bytes = static_cast<size_t>(elements / static_cast<uint64_t>(block)) * static_cast<size_t>(encoding_block_bytes(t.encoding));
  info.offset = in.number<uint64_t>(what + " (offset)");
  return info;
}

void read_header(Cursor& in, uint64_t& n_tensors, uint64_t& n_keys) {
  in.need(24, "the GGUF header");
  const uint32_t magic = in.number<uint32_t>("magic");
  check(magic == 0x46554747u, ErrorCode::invalid_file, in.path(), ": not a GGUF file: it does not begin with \"GGUF\"");
  const uint32_t version = in.number<uint32_t>("version");
  check((version & 0xffffu) != 0, ErrorCode::unsupported, in.path(), ": a big-endian GGUF file; little-endian ones are read");
  check(version == 2 || version == 3, ErrorCode::unsupported, in.path(), ": GGUF version ", version, "; 2 and 3 are read");
  n_tensors = in.number<uint64_t>("the number of tensors");
  n_keys = in.number<uint64_t>("the number of keys");
  check(n_tensors <= in.left() / 24 && n_keys <= in.left() / 13, ErrorCode::invalid_file, in.path(),
        ": cut off or malformed at byte 8: ", n_tensors, " tensors and ", n_keys, " keys do not fit in ", in.left(), " more bytes");
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Cursor in(file_);
  uint64_t n_tensors = 0, n_keys = 0;
  read_header(in, n_tensors, n_keys);
  for (uint64_t i = 0; i < n_keys; ++i) {
    std::string key = in.text(concat("the name of key ", i));
    const GgufType type = read_type(in, "key " + key);
    GgufValue value = read_value(in, type, "key " + key, 0);
    check(keys_.emplace(key, metadata_.size()).second, ErrorCode::invalid_file, path, ": key ", key, " stands twice");
    metadata_.emplace_back(std::move(key), std::move(value));
  }
  const int64_t parts = integer("split.count", 1);
  check(parts <= 1, ErrorCode::unsupported, path, ": one of ", parts,
        " parts of a split GGUF file; merge them first (llama-gguf-split --merge)");

  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < n_tensors; ++i) infos.push_back(read_tensor_info(in, i));
  const int64_t alignment = integer("general.alignment", 32);
  check(alignment >= 8 && alignment <= 1 << 20 && alignment % 8 == 0, ErrorCode::invalid_file, path, ": general.alignment is ", alignment,
        ", expected a multiple of 8");
  const uint64_t step = static_cast<uint64_t>(alignment);
  const uint64_t start = (in.at() + step - 1) / step * step;
  for (TensorInfo& info : infos) {
    GgufTensor& t = info.tensor;
    check(info.offset % step == 0, ErrorCode::invalid_file, path, ": tensor ", t.name, " begins at offset ", info.offset,
          ", not a multiple of the alignment ", step);
    const bool inside = start <= file_.size() && info.offset <= file_.size() - start && t.bytes <= file_.size() - start - info.offset;
    check(inside, ErrorCode::invalid_file, path, ": cut off: tensor ", t.name, " takes ", t.bytes, " bytes from byte ", start, " + ",
          info.offset, ", the file has ", file_.size());
    t.data = file_.data() + start + info.offset;
    check(tensor_names_.emplace(t.name, tensors_.size()).second, ErrorCode::invalid_file, path, ": tensor ", t.name, " stands twice");
    tensors_.push_back(std::move(t));
  }
}

const GgufValue* GgufFile::find(const std::string& key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? nullptr : &metadata_[found->second].second;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto found = tensor_names_.find(name);
  return found == tensor_names_.end() ? nullptr : &tensors_[found->second];
}

int64_t GgufFile::integer(const std::string& key, int64_t absent) const {
  const GgufValue* value = find(key);
  if (!value) return absent;
  if (const int64_t* n = value->get<int64_t>()) return *n;
  const uint64_t* n = value->get<uint64_t>();
  check(n && *n <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), ErrorCode::invalid_file, path(), ": key ", key,
        " is not an integer");
  return static_cast<int64_t>(*n);
}

double GgufFile::real(const std::string& key, double absent) const {
  const GgufValue* value = find(key);
  if (!value) return absent;
  if (const double* x = value->get<double>()) return *x;
  return static_cast<double>(integer(key, 0));
}

std::string GgufFile::text(const std::string& key, const std::string& absent) const {
  const GgufValue* value = find(key);
  if (!value) return absent;
  const std::string* text = value->get<std::string>();
  check(text, ErrorCode::invalid_file, path(), ": key ", key, " is not a string");
  return *text;
}

bool is_gguf_file(const std::string& path) {
  if (!is_file(path)) return false;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) return false;
  char magic[4] = {};
  const bool read = std::fread(magic, 1, 4, file) == 4;
  std::fclose(file);
  return read && std::memcmp(magic, "GGUF", 4) == 0;
}

}  // namespace rlhi::io
