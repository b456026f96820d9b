// config.json of the architectures this engine runs, read with the defaults of transformers' configuration classes.
#include "model/config.h"

#include <limits>

#include "base/error.h"
#include "io/json.h"
#include "model/config_check.h"

namespace rlhi {
namespace {

using io::Json;

struct ArchitectureNames {
  Architecture architecture;
  const char* model_type;
  const char* class_name;
};
constexpr ArchitectureNames kArchitectures[] = {
    {Architecture::llama, "llama", "LlamaForCausalLM"},
    {Architecture::mistral, "mistral", "MistralForCausalLM"},
    {Architecture::qwen2, "qwen2", "Qwen2ForCausalLM"},
    {Architecture::qwen3, "qwen3", "Qwen3ForCausalLM"},
};
constexpr const char* kSupported = "llama, mistral, qwen2 and qwen3 are supported";

const ArchitectureNames& names_of(Architecture architecture) {
  for (const auto& names : kArchitectures) {
    if (names.architecture == architecture) return names;
  }
  fail(ErrorCode::internal, "architecture without a name");
}

// Reads members of one JSON object; null counts as absent, as it does in transformers' configuration classes.
class Reader {
 public:
  Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    check(object.is_object(), ErrorCode::invalid_file, where_, ": expected an object, found ", object.kind_name());
  }

  const Json* find(const char* key) const {
    const Json* value = object_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  bool has(const char* key) const { return object_.find(key) != nullptr; }

  int64_t integer(const char* key, int64_t absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    check(value->is_integer(), ErrorCode::invalid_file, where_, ": ", key, " is ", value->dump(), ", expected an integer");
    return value->as_int();
  }
  double real(const char* key, double absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    check(value->is_number(), ErrorCode::invalid_file, where_, ": ", key, " is ", value->dump(), ", expected a number");
    return value->as_double();
  }
  bool boolean(const char* key, bool absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    check(value->kind() == Json::Kind::boolean, ErrorCode::invalid_file, where_, ": ", key, " is ", value->dump(),
          ", expected true or false");
    return value->as_bool();
  }
  std::string text(const char* key, const char* absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    check(value->is_string(), ErrorCode::invalid_file, where_, ": ", key, " is ", value->dump(), ", expected a string");
    return value->as_string();
  }
  int32_t token_id(const char* key, int32_t absent) const {
    const int64_t id = integer(key, absent);
    check(id >= -1 && id <= std::numeric_limits<int32_t>::max(), ErrorCode::invalid_file, where_, ": ", key, " is ", id,
          ", which is no token id");
    return static_cast<int32_t>(id);
  }
  const std::string& where() const { return where_; }

 private:
  const Json& object_;
  std::string where_;
};

Architecture read_architecture(const Reader& config) {
  const std::string model_type = config.text("model_type", "");
  for (const auto& names : kArchitectures) {
    if (model_type == names.model_type) return names.architecture;
  }
  check(model_type.empty(), ErrorCode::unsupported, config.where(), ": model_type is ", model_type, "; ", kSupported);
  const Json* classes = config.find("architectures");
  if (classes && classes->is_array() && !classes->items().empty() && classes->items()[0].is_string()) {
    const std::string& name = classes->items()[0].as_string();
    for (const auto& names : kArchitectures) {
      if (name == names.class_name) return names.architecture;
    }
    fail(ErrorCode::unsupported, config.where(), ": architectures is ", name, "; ", kSupported);
  }
  fail(ErrorCode::invalid_file, config.where(), ": model_type is missing; ", kSupported);
}

// What transformers would run and this engine would silently get wrong is refused by name.
void refuse_unsupported(const Reader& config) {
  const std::string activation = config.text("hidden_act", "silu");
  check(activation == "silu", ErrorCode::unsupported, config.where(), ": hidden_act is ", activation, "; silu is supported");
  check(!config.boolean("mlp_bias", false), ErrorCode::unsupported, config.where(), ": mlp_bias is true; false is supported");
  const Json* classes = config.find("architectures");
  if (classes && classes->is_array() && !classes->items().empty() && classes->items()[0].is_string()) {
    const std::string& name = classes->items()[0].as_string();
    check(name.ends_with("ForCausalLM") || name.ends_with("Model"), ErrorCode::unsupported, config.where(), ": architectures is ", name,
          "; a language model (…ForCausalLM) is supported");
  }
  check(!config.find("quantization_config"), ErrorCode::unsupported, config.where(),
        ": quantization_config is set; weights in f32, f16 or bf16, or a GGUF file, are supported");
  const double rotary = config.real("partial_rotary_factor", 1.0);
  check(rotary == 1.0, ErrorCode::unsupported, config.where(), ": partial_rotary_factor is ", rotary, "; 1 is supported");
}

void read_scaling(const Reader& parameters, const Reader& config, int64_t max_position, RopeConfig& rope) {
  const std::string type = parameters.text("rope_type", parameters.text("type", "default").c_str());
  const auto required = [&](const char* key) {
    check(parameters.find(key), ErrorCode::invalid_file, parameters.where(), ": ", key, " is missing; rope_type ", type, " needs it");
    return parameters.real(key, 0);
  };
  const double rotary = parameters.real("partial_rotary_factor", 1.0);
  check(rotary == 1.0, ErrorCode::unsupported, parameters.where(), ": partial_rotary_factor is ", rotary, "; 1 is supported");
  if (type == "default") return;
  check(type == "linear" || type == "llama3", ErrorCode::unsupported, parameters.where(), ": rope_type is ", type,
        "; default, linear and llama3 are supported");
  rope.factor = required("factor");
  if (type == "linear") {
    rope.type = RopeType::linear;
    return;
  }
  rope.type = RopeType::llama3;
  rope.low_freq_factor = required("low_freq_factor");
  rope.high_freq_factor = required("high_freq_factor");
  rope.original_max_position = config.integer("original_max_position_embeddings",
                                              parameters.integer("original_max_position_embeddings", max_position));
}

// Old form: rope_theta and rope_scaling beside each other; new form: everything in rope_parameters. Where both are there
// transformers takes rope_scaling.
RopeConfig read_rope(const Reader& config, int64_t max_position) {
  RopeConfig rope;
  rope.theta = config.real("rope_theta", 10000.0);
  const Json* old_form = config.find("rope_scaling");
  if (old_form && old_form->is_object() && old_form->members().empty()) old_form = nullptr;
  const Json* parameters = old_form ? old_form : config.find("rope_parameters");
  if (!parameters) return rope;
  const Reader reader(*parameters, config.where() + (old_form ? ": rope_scaling" : ": rope_parameters"));
  for (const io::JsonMember& m : parameters->members()) {
    check(!m.value.is_object(), ErrorCode::unsupported, reader.where(), ": ", m.key,
          " is an object (parameters of one kind of layer); one set for all layers is supported");
  }
  rope.theta = reader.real("rope_theta", rope.theta);
  read_scaling(reader, config, max_position, rope);
  return rope;
}

std::vector<int32_t> read_mistral_windows(const Reader& config, int64_t n_layers) {
  const int64_t window = config.has("sliding_window") ? config.integer("sliding_window", 0) : 4096;
  return std::vector<int32_t>(static_cast<size_t>(n_layers), checked_window(window, config.where()));
}

// Qwen2 and Qwen3: a window only with use_sliding_window, on the layers from max_window_layers on or as layer_types says.
std::vector<int32_t> read_qwen_windows(const Reader& config, int64_t n_layers) {
  const bool used = config.boolean("use_sliding_window", false);
  const int64_t window = !used ? 0 : config.has("sliding_window") ? config.integer("sliding_window", 0) : 4096;
  const int32_t checked = checked_window(window, config.where());
  std::vector<int32_t> windows(static_cast<size_t>(n_layers), 0);
  const Json* types = config.find("layer_types");
  if (!types) {
    const int64_t first = config.integer("max_window_layers", 28);
    for (int64_t i = 0; i < n_layers; ++i) windows[static_cast<size_t>(i)] = i >= first ? checked : 0;
    return windows;
  }
  check(types->is_array() && types->items().size() == windows.size(), ErrorCode::invalid_file, config.where(), ": layer_types has ",
        types->is_array() ? types->items().size() : 0, " entries, expected one for each of ", n_layers, " layers");
  for (size_t i = 0; i < windows.size(); ++i) {
    const Json& type = types->items()[i];
    const bool sliding = type.is_string() && type.as_string() == "sliding_attention";
    check(sliding || (type.is_string() && type.as_string() == "full_attention"), ErrorCode::unsupported, config.where(), ": layer_types[",
          i, "] is ", type.dump(), "; full_attention and sliding_attention are supported");
    check(!sliding || checked > 0, ErrorCode::invalid_file, config.where(), ": layer_types[", i,
          "] is sliding_attention, but there is no window (use_sliding_window, sliding_window)");
    windows[i] = sliding ? checked : 0;
  }
  return windows;
}

std::vector<int32_t> read_eos(const Reader& config, int32_t absent) {
  const Json* value = config.find("eos_token_id");
  if (!value || !value->is_array()) {
    const int32_t id = config.token_id("eos_token_id", config.has("eos_token_id") ? -1 : absent);
    return id < 0 ? std::vector<int32_t>{} : std::vector<int32_t>{id};
  }
  std::vector<int32_t> ids;
  for (const Json& item : value->items()) {
    const bool valid = item.is_integer() && item.as_int() >= 0 && item.as_int() <= std::numeric_limits<int32_t>::max();
    check(valid, ErrorCode::invalid_file, config.where(), ": eos_token_id holds ", item.dump(), ", which is no token id");
    ids.push_back(static_cast<int32_t>(item.as_int()));
  }
  return ids;
}

void read_sizes(const Reader& config, ModelConfig& c) {
  const bool qwen = c.architecture == Architecture::qwen2 || c.architecture == Architecture::qwen3;
  const bool mistral = c.architecture == Architecture::mistral;
  c.vocab_size = config.integer("vocab_size", qwen ? 151936 : 32000);
  c.hidden_size = config.integer("hidden_size", 4096);
  c.intermediate_size = config.integer("intermediate_size", qwen ? 22016 : mistral ? 14336 : 11008);
  c.n_layers = config.integer("num_hidden_layers", 32);
  c.n_heads = config.integer("num_attention_heads", 32);
  // Absent means the class's default, null means one key/value head a query head; llama's default is null.
  const int64_t absent_kv = qwen ? 32 : mistral ? 8 : c.n_heads;
  c.n_kv_heads = config.integer("num_key_value_heads", config.has("num_key_value_heads") ? c.n_heads : absent_kv);
  c.max_position = config.integer("max_position_embeddings", qwen ? 32768 : mistral ? 131072 : 2048);
  check(c.n_heads > 0, ErrorCode::invalid_file, config.where(), ": num_attention_heads is ", c.n_heads, ", expected at least 1");
  const int64_t absent_head_dim = c.architecture == Architecture::qwen3 ? 128 : c.hidden_size / c.n_heads;
  // transformers' Qwen2 takes a head_dim that is there although the class does not name it.
  c.head_dim = config.integer("head_dim", absent_head_dim);
  c.rms_norm_eps = config.real("rms_norm_eps", 1e-6);
}

}  // namespace

ModelConfig config_from_json(const io::Json& json, const std::string& where) {
  const Reader config(json, where);
  ModelConfig c;
  c.architecture = read_architecture(config);
  refuse_unsupported(config);
  read_sizes(config, c);
  c.tied_embeddings = config.boolean("tie_word_embeddings", false);
  c.rope = read_rope(config, c.max_position);

  const bool qwen = c.architecture == Architecture::qwen2 || c.architecture == Architecture::qwen3;
  c.qk_norm = c.architecture == Architecture::qwen3;
  const bool attention_bias = c.architecture != Architecture::mistral && config.boolean("attention_bias", false);
  c.qkv_bias = c.architecture == Architecture::qwen2 || attention_bias;
  c.o_bias = c.architecture != Architecture::qwen2 && attention_bias;
  check_sizes(c, where);
  if (qwen) {
    c.layer_window = read_qwen_windows(config, c.n_layers);
  } else if (c.architecture == Architecture::mistral) {
    c.layer_window = read_mistral_windows(config, c.n_layers);
  } else {
    c.layer_window.assign(static_cast<size_t>(c.n_layers), 0);
  }

  // A key that is there but null means none; only an absent key takes the class's default.
  c.bos_token_id = config.token_id("bos_token_id", qwen || config.has("bos_token_id") ? -1 : 1);
  c.eos_token_ids = read_eos(config, qwen ? -1 : 2);
  std::erase_if(c.eos_token_ids, [&](int32_t id) { return id >= c.vocab_size; });  // can never be generated
  return c;
}

const char* model_type(Architecture architecture) { return names_of(architecture).model_type; }
const char* model_class(Architecture architecture) { return names_of(architecture).class_name; }

void check_sizes(const ModelConfig& c, const std::string& where) {
  constexpr int64_t kMax = int64_t{1} << 30;
  const auto positive = [&](const char* key, int64_t value) {
    check(value >= 1 && value <= kMax, ErrorCode::invalid_file, where, ": ", key, " is ", value, ", expected 1 to ", kMax);
  };
  positive("vocab_size", c.vocab_size);
  positive("hidden_size", c.hidden_size);
  positive("intermediate_size", c.intermediate_size);
  positive("num_hidden_layers", c.n_layers);
  positive("num_attention_heads", c.n_heads);
  positive("num_key_value_heads", c.n_kv_heads);
  positive("head_dim", c.head_dim);
  positive("max_position_embeddings", c.max_position);
  check(c.n_layers <= 10000, ErrorCode::invalid_file, where, ": num_hidden_layers is ", c.n_layers, ", expected at most 10000");
  check(c.head_dim <= 65536 && c.n_heads <= 65536, ErrorCode::invalid_file, where, ": head_dim ", c.head_dim, " with ", c.n_heads,
        " heads is out of range");
  const auto width = static_cast<double>((2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 3 * c.intermediate_size);
  const double parameters = (width * static_cast<double>(c.n_layers) + 2.0 * static_cast<double>(c.vocab_size)) * static_cast<double>(c.hidden_size);
  check(parameters < 0x1p45, ErrorCode::invalid_file, where, ": the sizes make ", parameters, " parameters, expected fewer than 2^45");
  check(c.head_dim % 2 == 0, ErrorCode::unsupported, where, ": head_dim is ", c.head_dim,
        "; an even number is supported (rotary embedding)");
  check(c.n_heads % c.n_kv_heads == 0, ErrorCode::invalid_file, where, ": num_attention_heads (", c.n_heads,
        ") is not a multiple of num_key_value_heads (", c.n_kv_heads, ")");
  const auto positive_real = [&](const char* key, double value) {
    check(value > 0, ErrorCode::invalid_file, where, ": ", key, " is ", value, ", expected a number above 0");
  };
  check(c.rms_norm_eps >= 0, ErrorCode::invalid_file, where, ": rms_norm_eps is ", c.rms_norm_eps, ", expected at least 0");
  positive_real("rope_theta", c.rope.theta);
  positive_real("the rotary embedding's factor", c.rope.factor);
  if (c.rope.type == RopeType::llama3) {
    positive_real("low_freq_factor", c.rope.low_freq_factor);
    positive_real("original_max_position_embeddings", static_cast<double>(c.rope.original_max_position));
    check(c.rope.high_freq_factor > c.rope.low_freq_factor, ErrorCode::invalid_file, where, ": high_freq_factor (", c.rope.high_freq_factor,
          ") is not above low_freq_factor (", c.rope.low_freq_factor, ")");
  }
}

int32_t checked_window(int64_t window, const std::string& where) {
  check(window >= 0 && window <= std::numeric_limits<int32_t>::max(), ErrorCode::invalid_file, where, ": sliding_window is ", window,
        ", expected a number of tokens or null");
  return static_cast<int32_t>(window);
}

}  // namespace rlhi
