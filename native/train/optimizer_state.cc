#include "train/optimizer_state.h"

#include <cstring>

#include "io/safetensors.h"

namespace rlhi {
namespace {

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

// The file without its tensors' bytes, and where those lie.
struct StateFile {
  std::string path;
  std::vector<io::SafetensorsInfo> infos;
  std::map<std::string, std::string> metadata;

  void write(const NextBytes& next) const {
    io::write_safetensors(path, infos, [&](size_t, const io::SafetensorsSink& sink) { next(sink); }, metadata);
  }
};
struct StateParts {
  StateFile file;
  std::vector<DeviceBytes> sources;
};

StateParts state_parts(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done) {
  StateParts parts;
  StateFile& file = parts.file;
  const auto add = [&](io::SafetensorsInfo info, const void* data) {
    parts.sources.push_back({data, static_cast<size_t>(info.bytes())});
    file.infos.push_back(std::move(info));
  };
  for (const Kind& kind : kinds(adamw)) {
    for (const NamedParameter& p : weights.parameters) add({kind.prefix + p.name, kind.dtype, p.shape, kind.file_dtype}, data_of(kind, p));
  }
  for (const Whole& whole : wholes(adamw)) add({whole.name, DType::f32, {whole.data.cols}}, whole.data.data);
  file.path = state_path(dir);
  file.metadata = {{"format", "pt"}, {"step", concat(steps_done)}, {"dtype", dtype_name(weights.dtype())}};
  return parts;
}

}  // namespace

void save_optimizer_state(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done, const ops::Table& ops,
                          ops::Backend* backend) {
  const StateParts parts = state_parts(dir, weights, adamw, steps_done);
  DeviceReader reader(parts.sources, ops, backend);
  parts.file.write([&](const ByteSink& sink) { reader.next(sink); });
}

DeferredWrite take_optimizer_state(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done, const ops::Table& ops,
                                   ops::Backend* backend, const std::atomic<bool>* abort) {
  StateParts parts = state_parts(dir, weights, adamw, steps_done);
  std::shared_ptr<const HostCopy> copy = HostCopy::take(std::move(parts.sources), ops, backend, abort);
  if (!copy) return nullptr;
  return [file = std::move(parts.file), copy = std::move(copy)](const std::atomic<bool>& abort) { file.write(copy->reader(abort)); };
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
