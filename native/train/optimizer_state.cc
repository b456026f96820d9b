#include "train/optimizer_state.h"

#include <cstring>

#include "io/safetensors.h"

namespace rlhi {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;

// One kind of state: a value an element of the parameter storage.
struct Kind {
  const char* prefix;
  const char* file_dtype;
  DType dtype;                 // of the same element size
  char* data;
};

std::vector<Kind> kinds(const AdamW& adamw) {
  const bool coded = adamw.moments() == ops::Moments::coded, f32 = adamw.moments() == ops::Moments::f32;
  const char* name = f32 ? "F32" : coded ? "U8" : "BF16";
  const DType dtype = f32 ? DType::f32 : coded ? DType::u8 : DType::bf16;
  std::vector<Kind> out = {{"exp_avg.", name, dtype, static_cast<char*>(adamw.first_moment())},
                           {"exp_avg_sq.", name, dtype, static_cast<char*>(adamw.second_moment())}};
  if (adamw.remainder()) out.push_back({"remainder.", "I16", DType::bf16, reinterpret_cast<char*>(adamw.remainder())});
  return out;
}

// Of all parameters at once: the scales of coded moments.
struct Whole {
  const char* name;
  Tensor data;
};
std::vector<Whole> wholes(const AdamW& adamw) {
  if (adamw.moments() != ops::Moments::coded) return {};
  return {{"exp_avg.scales", adamw.first_scales()}, {"exp_avg_sq.scales", adamw.second_scales()}};
}

char* data_of(const Kind& kind, const NamedParameter& p) { return kind.data + p.offset * dtype_size(kind.dtype); }

std::string state_path(const std::string& dir) { return dir + "/optimizer.safetensors"; }

const std::string& metadata_value(const io::SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  check(found != file.metadata().end(), ErrorCode::invalid_file, file.path(), ": expected \"", key, "\" in the metadata, found none");
  return found->second;
}

int64_t parse_step(const std::string& text, const std::string& path) {
  const bool digits = !text.empty() && text.size() < 18 && text.find_first_not_of("0123456789") == std::string::npos;
  check(digits, ErrorCode::invalid_file, path, ": expected a step count in the metadata, found \"", text, "\"");
  return std::stoll(text);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t n : shape) text += concat(text.size() > 1 ? ", " : "", n);
  return text + "]";
}

const io::SafetensorsEntry& checked_entry(const io::SafetensorsFile& file, const std::string& name, const char* dtype, const std::vector<int64_t>& shape) {
  const io::SafetensorsEntry* entry = file.find(name);
  check(entry != nullptr, ErrorCode::invalid_file, file.path(), ": expected ", name,
        ", found no such tensor; this state belongs to another model");
  check(entry->shape == shape, ErrorCode::invalid_file, file.path(), ": ", name, ": expected shape ", shape_text(shape), ", found ",
        shape_text(entry->shape));
  check(entry->dtype == dtype, ErrorCode::invalid_file, file.path(), ": ", name, ": expected ", dtype, ", found ", entry->dtype);
  return *entry;
}
const io::SafetensorsEntry& checked_entry(const io::SafetensorsFile& file, const Kind& kind, const NamedParameter& p) {
  return checked_entry(file, kind.prefix + p.name, kind.file_dtype, p.shape);
}
const io::SafetensorsEntry& checked_entry(const io::SafetensorsFile& file, const Whole& whole) {
  return checked_entry(file, whole.name, "F32", {whole.data.cols});
}

}  // namespace

void save_optimizer_state(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done, const ops::Table& ops,
                          ops::Backend* backend) {
  std::vector<io::SafetensorsInfo> infos;
  std::vector<const char*> sources;
  for (const Kind& kind : kinds(adamw)) {
    for (const NamedParameter& p : weights.parameters) {
      infos.push_back({kind.prefix + p.name, kind.dtype, p.shape, kind.file_dtype});
      sources.push_back(data_of(kind, p));
    }
  }
  for (const Whole& whole : wholes(adamw)) {
    infos.push_back({whole.name, DType::f32, {whole.data.cols}});
    sources.push_back(static_cast<const char*>(whole.data.data));
  }
  std::vector<char> piece(kPieceBytes);
  const auto fill = [&](size_t i, const io::SafetensorsSink& sink) {
    const auto bytes = static_cast<size_t>(infos[i].bytes());
    for (size_t at = 0; at < bytes; at += kPieceBytes) {
      const size_t n = std::min(kPieceBytes, bytes - at);
      ops.download(backend, piece.data(), sources[i] + at, n);
      sink(piece.data(), n);
    }
  };
  io::write_safetensors(state_path(dir), infos, fill, {{"format", "pt"}, {"step", concat(steps_done)},
                         {"dtype", dtype_name(weights.dtype())}});
}

int64_t load_optimizer_state(const std::string& dir, const Weights& weights, AdamW& adamw, const ops::Table& ops, ops::Backend* backend) {
  const io::SafetensorsFile file(state_path(dir));
  const std::string& dtype = metadata_value(file, "dtype");
  check(dtype == dtype_name(weights.dtype()), ErrorCode::invalid_file, file.path(), ": expected the state of ", dtype_name(weights.dtype()),
        " weights, found that of ", dtype);
  const int64_t steps = parse_step(metadata_value(file, "step"), file.path());
  const std::vector<Kind> all = kinds(adamw);
  const std::vector<Whole> scales = wholes(adamw);
  const size_t expected = all.size() * weights.parameters.size() + scales.size();
  check(file.tensors().size() == expected, ErrorCode::invalid_file, file.path(), ": expected ", expected, " tensors, found ",
        file.tensors().size(),
        "; this state belongs to another model");
  for (const Kind& kind : all)
    for (const NamedParameter& p : weights.parameters) checked_entry(file, kind, p);  // all of it before the first is changed
  for (const Whole& whole : scales) checked_entry(file, whole);
  for (const Kind& kind : all) {
    for (const NamedParameter& p : weights.parameters) {
      const io::SafetensorsEntry& entry = checked_entry(file, kind, p);
      ops.upload(backend, data_of(kind, p), entry.data, entry.bytes);
    }
  }
  for (const Whole& whole : scales) {
    const io::SafetensorsEntry& entry = checked_entry(file, whole);
    ops.upload(backend, whole.data.data, entry.data, entry.bytes);
  }
  return steps;
}

}  // namespace rlhi
