// Weights: layout, loading from either form of checkpoint, saving, random weights, fingerprints.
#include <algorithm>
#include <cstring>
#include <set>

#include "base/mapped_file.h"
#include "base/random.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/rope_frequencies.h"
#include "model/weights.h"
#include "ops/cpu/cpu_backend.h"
#include "test/check.h"
#include "test/gguf_builder.h"
#include "test/temp_dir.h"
#include "test/tiny_models.h"

namespace rlhi::test {
namespace {

const ops::CpuBackend& backend() {
  static const ops::CpuBackend one({1, ops::CpuIsa::portable});
  return one;
}
std::unique_ptr<Weights> load(const std::string& path, DType dtype = DType::f32) {
  return load_weights(path, load_config(path), dtype, backend().table(), backend().handle());
}
void save(const std::string& dir, const Weights& weights, DType dtype, const std::string& source = "", int64_t limit = int64_t{5} << 30) {
  save_pretrained(dir, weights, dtype, backend().table(), backend().handle(), source, limit);
}
std::string fingerprint(const Weights& weights) { return weights_fingerprint(weights, backend().table(), backend().handle()); }
bool same_bytes(const Weights& a, const Weights& b) {
  return a.dtype() == b.dtype() && a.elements() == b.elements() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.elements() * dtype_size(a.dtype()))) == 0;
}
const NamedParameter& parameter(const Weights& weights, const std::string& name) {
  for (const NamedParameter& p : weights.parameters) {
    if (p.name == name) return p;
  }
  throw std::runtime_error("no parameter " + name);
}

TEST("weights: merged tensors are aligned, their parts lie one after the other, gaps are zero") {
  for (const Architecture architecture : all_architectures()) {
    const ModelConfig c = tiny_config(architecture);
    const auto weights = random_weights(c, DType::f32, 3, backend().table(), backend().handle());
    const ParameterLayout layout = parameter_layout(c);
    EXPECT_EQ(layout.elements, weights->elements());
    const LayerWeights& layer = weights->layers[1];
    const NamedParameter& q = parameter(*weights, "model.layers.1.self_attn.q_proj.weight");
    const NamedParameter& k = parameter(*weights, "model.layers.1.self_attn.k_proj.weight");
    const NamedParameter& up = parameter(*weights, "model.layers.1.mlp.up_proj.weight");
    EXPECT(layer.qkv.rows == c.qkv_width() && layer.qkv.cols == c.hidden_size && layer.qkv.data == q.view.data);
    EXPECT_EQ(k.offset, q.offset + c.q_width() * c.hidden_size);
    EXPECT(up.view.data == layer.gate_up.row_range(c.intermediate_size, c.intermediate_size).data);
    EXPECT_EQ(static_cast<bool>(layer.q_norm), c.qk_norm);
    EXPECT_EQ(static_cast<bool>(layer.qkv_bias), c.qkv_bias);
    EXPECT_EQ(static_cast<bool>(layer.o_bias), c.o_bias);
    EXPECT_EQ(weights->head.data == weights->embed.data, c.tied_embeddings);
    std::vector<bool> used(static_cast<size_t>(layout.elements), false);
    for (const NamedParameter& p : weights->parameters) {
      for (int64_t i = 0; i < p.view.size(); ++i) {
        EXPECT(!used[static_cast<size_t>(p.offset + i)]);
        used[static_cast<size_t>(p.offset + i)] = true;
      }
    }
    for (const Tensor& merged :
         {weights->embed, layer.input_norm, layer.qkv, layer.o, layer.gate_up, layer.down, weights->final_norm, weights->head}) {
      EXPECT_EQ((static_cast<float*>(merged.data) - static_cast<float*>(weights->data())) % 32, 0);
    }
    for (size_t i = 0; i < used.size(); ++i) EXPECT(used[i] || static_cast<float*>(weights->data())[i] == 0.0f);
  }
}

TEST("weights: random ones are the seed's, normal with deviation 0.02, ones for norms and zeros for biases") {
  ModelConfig c = tiny_config(Architecture::qwen2);
  c.vocab_size = 1001;
  const auto a = random_weights(c, DType::f32, 3, backend().table(), backend().handle());
  EXPECT(same_bytes(*a, *random_weights(c, DType::f32, 3, backend().table(), backend().handle())));
  EXPECT(!same_bytes(*a, *random_weights(c, DType::f32, 4, backend().table(), backend().handle())));
  double sum = 0, squares = 0;
  const Tensor& embed = a->embed;
  for (int64_t i = 0; i < embed.size(); ++i) {
    sum += embed.get<float>()[i];
    squares += static_cast<double>(embed.get<float>()[i]) * embed.get<float>()[i];
  }
  EXPECT_NEAR(sum / static_cast<double>(embed.size()), 0, 0.001);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(embed.size())), 0.02, 0.0005);
  EXPECT_EQ(a->final_norm.get<float>()[c.hidden_size - 1], 1.0f);
  EXPECT_EQ(a->layers[0].qkv_bias.get<float>()[0], 0.0f);
  const auto half = random_weights(c, DType::bf16, 3, backend().table(), backend().handle());
  for (int64_t i = 0; i < embed.size(); ++i) EXPECT_EQ(half->embed.get<bf16>()[i].bits, to_bf16(embed.get<float>()[i]).bits);
  // A large tensor is filled by several threads; the numbers are the same ones, index by index.
  c.vocab_size = 40001;
  const auto large = random_weights(c, DType::f32, 3, backend().table(), backend().handle());
  EXPECT(std::memcmp(large->embed.data, embed.data, static_cast<size_t>(embed.bytes())) == 0);
}

TEST("weights: saved and loaded they are the same bytes, in one file or in shards, for every architecture") {
  for (const Architecture architecture : all_architectures()) {
    const auto weights = random_weights(tiny_config(architecture), DType::f32, 5, backend().table(), backend().handle());
    const TempDir dir;
    save(dir.path(), *weights, DType::f32);
    EXPECT_EQ(dir.entries(), 2u);  // config.json, model.safetensors
    EXPECT(same_bytes(*load(dir.path()), *weights));
    save(dir.path(), *weights, DType::f32, "", 40000);
    EXPECT(!is_file(dir.file("model.safetensors")) && is_file(dir.file("model.safetensors.index.json")));
    for (const auto& file : io::open_safetensors_folder(dir.path())) {
      EXPECT(is_file(file->path()) && (file->tensors().size() == 1 || MappedFile(file->path()).size() < 44000));
    }
    EXPECT(same_bytes(*load(dir.path()), *weights));
    save(dir.path(), *weights, DType::f32);  // back to one file: the old index must not win
    EXPECT(!is_file(dir.file("model.safetensors.index.json")));
    EXPECT(same_bytes(*load(dir.path()), *weights));
  }
}

TEST("weights: f32 to bf16 rounds to nearest even, bf16 to f32 is exact") {
  const auto full = random_weights(tiny_config(Architecture::qwen3), DType::f32, 5, backend().table(), backend().handle());
  const TempDir dir;
  save(dir.path(), *full, DType::f32);
  const auto half = load(dir.path(), DType::bf16);
  const TempDir half_dir;
  save(half_dir.path(), *full, DType::bf16);
  EXPECT(same_bytes(*load(half_dir.path(), DType::bf16), *half));
  const auto widened = load(half_dir.path(), DType::f32);
  for (int64_t i = 0; i < full->elements(); ++i) {
    const bf16 expected = to_bf16(static_cast<float*>(full->data())[i]);
    EXPECT_EQ(static_cast<bf16*>(half->data())[i].bits, expected.bits);
    EXPECT_EQ(static_cast<float*>(widened->data())[i], to_float(expected));
  }
  EXPECT(read_text_file(half_dir.file("config.json")).find("\"dtype\": \"bfloat16\"") != std::string::npos);
}

TEST("weights: a source config.json keeps what this engine does not model, but its dtype") {
  const auto weights = random_weights(tiny_config(Architecture::qwen3), DType::f32, 5, backend().table(), backend().handle());
  const TempDir dir;
  save(dir.path(), *weights, DType::bf16, R"({"custom": [1, 2.5], "torch_dtype": "float16", "z": null})");
  const io::Json json = io::Json::parse(read_text_file(dir.file("config.json")), "config.json");
  EXPECT_EQ(json.dump(), R"({"custom": [1, 2.5], "torch_dtype": "bfloat16", "z": null})");
  save(dir.path(), *weights, DType::f32, R"({"dtype": "float16"})");
  EXPECT_EQ(io::Json::parse(read_text_file(dir.file("config.json")), "config.json").dump(), R"({"dtype": "float32"})");
}

// Rewrites a folder's only file with other tensors: `change` may edit, drop (false) or leave each.
void rewrite(const std::string& dir, const std::function<bool(io::SafetensorsInfo&)>& change,
             const std::vector<io::SafetensorsInfo>& more = {}) {
  std::vector<io::SafetensorsInfo> infos;
  {
    const io::SafetensorsFile file(dir + "/model.safetensors");
    for (const io::SafetensorsEntry& entry : file.tensors()) {
      io::SafetensorsInfo info{entry.name, io::float_dtype(entry, file.path()), entry.shape};
      if (change(info)) infos.push_back(info);
    }
  }
  infos.insert(infos.end(), more.begin(), more.end());
  io::write_safetensors(dir + "/model.safetensors", infos, [&](size_t i, const io::SafetensorsSink& sink) {
    const std::string zeros(static_cast<size_t>(infos[i].bytes()), '\0');
    sink(zeros.data(), zeros.size());
  });
}

TEST("weights: missing, misshapen and unknown tensors are refused by name with both shapes") {
  const auto weights = random_weights(tiny_config(Architecture::llama), DType::f32, 5, backend().table(), backend().handle());
  const auto keep = [](io::SafetensorsInfo&) { return true; };
  const TempDir dir;
  const auto expect = [&](const std::function<bool(io::SafetensorsInfo&)>& change, const std::vector<io::SafetensorsInfo>& more,
                          const char* part) {
    save(dir.path(), *weights, DType::f32);
    rewrite(dir.path(), change, more);
    EXPECT_ERROR(load(dir.path()), ErrorCode::invalid_file, part);
  };
  expect([](io::SafetensorsInfo& i) { return i.name != "model.layers.1.mlp.up_proj.weight"; }, {},
         "tensor model.layers.1.mlp.up_proj.weight [72, 48] is missing");
  expect(
      [](io::SafetensorsInfo& i) {
        if (i.name == "model.norm.weight") i.shape = {47};
        return true;
      },
      {}, "tensor model.norm.weight has shape [47], expected [48]");
  expect(keep, {{"model.layers.2.input_layernorm.weight", DType::f32, {48}}},
         "tensor model.layers.2.input_layernorm.weight [48] is not one of this architecture's");
  save(dir.path(), *weights, DType::f32);
  rewrite(dir.path(), keep, {{"lm_head.weight", DType::f32, {61, 48}}, {"model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {4}}});
  EXPECT_EQ(load(dir.path())->embed.get<float>()[0], 0.0f);  // a tied head's copy and rotary buffers are let be
}

TEST("weights: binary16 files load") {
  const auto weights = random_weights(tiny_config(Architecture::llama), DType::f32, 5, backend().table(), backend().handle());
  const TempDir dir;
  save(dir.path(), *weights, DType::f32);
  std::vector<io::SafetensorsInfo> infos;
  for (const NamedParameter& p : weights->parameters) infos.push_back({p.name, DType::f16, p.shape});
  io::write_safetensors(dir.file("model.safetensors"), infos, [&](size_t i, const io::SafetensorsSink& sink) {
    const std::vector<uint16_t> values(static_cast<size_t>(infos[i].bytes() / 2), 0x3555);
    sink(values.data(), values.size() * 2);
  });
  const auto loaded = load(dir.path());
  EXPECT_EQ(loaded->layers[1].down.get<float>()[0], 0.333251953125f);
  EXPECT_EQ(load(dir.path(), DType::bf16)->embed.get<bf16>()[7].bits, to_bf16(0.333251953125f).bits);
}

TEST("weights: paths that hold no model are refused by name") {
  const TempDir dir;
  EXPECT_ERROR(load_config(dir.file("absent")), ErrorCode::io, "no such Hugging Face folder or GGUF file");
  EXPECT_ERROR(load_config(dir.path()), ErrorCode::invalid_file, "config.json is missing");
  write_bytes(dir.file("x.txt"), "hello, this is some text and no model");
  EXPECT_ERROR(load_config(dir.file("x.txt")), ErrorCode::invalid_file, "not a GGUF file");
  EXPECT_ERROR(save(dir.file("absent"),
                    *random_weights(tiny_config(Architecture::llama), DType::f32, 1, backend().table(), backend().handle()), DType::f32),
               ErrorCode::io, "not a folder");
}

TEST("weights: what generation stops at is the generation configuration's word") {
  const auto weights = random_weights(tiny_config(Architecture::llama), DType::f32, 5, backend().table(), backend().handle());
  const TempDir dir;
  save(dir.path(), *weights, DType::f32);
  EXPECT(load_config(dir.path()).eos_token_ids == std::vector<int32_t>{2});
  write_bytes(dir.file("generation_config.json"), R"({"eos_token_id": [7, 9]})");
  EXPECT(load_config(dir.path()).eos_token_ids == (std::vector<int32_t>{7, 9}));
  write_bytes(dir.file("generation_config.json"), R"({"eos_token_id": 61})");
  EXPECT_ERROR(load_config(dir.path()), ErrorCode::invalid_file, "eos_token_id holds 61, the vocabulary has 61");
}

TEST("weights: the fingerprint changes with any number and with the configuration") {
  ModelConfig c = tiny_config(Architecture::qwen3);
  const auto weights = random_weights(c, DType::f32, 5, backend().table(), backend().handle());
  const std::string before = fingerprint(*weights);
  EXPECT_EQ(before.size(), 16u);
  EXPECT_EQ(fingerprint(*random_weights(c, DType::f32, 5, backend().table(), backend().handle())), before);
  float& last = weights->final_norm.get<float>()[c.hidden_size - 1];
  last = std::nextafter(last, 2.0f);
  EXPECT(fingerprint(*weights) != before);
  c.rope.theta = 20000;
  EXPECT(fingerprint(*random_weights(c, DType::f32, 5, backend().table(), backend().handle())) != before);
}

// ---- GGUF --------------------------------------------------------------------------------------------------------------

// Row r of q or k as ggml orders it: pairs (i, i + head_dim/2) of a head lie side by side.
int64_t paired_row(int64_t r, int64_t head_dim) {
  const int64_t within = r % head_dim;
  return r - within + (within % 2) * (head_dim / 2) + within / 2;
}

std::string gguf_name(const std::string& name) {
  static const std::vector<std::pair<std::string, std::string>> parts = {
      {"model.embed_tokens", "token_embd"}, {"model.layers", "blk"}, {"model.norm", "output_norm"}, {"lm_head", "output"},
      {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"}, {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"}, {"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"}};
  std::string result = name;
  for (const auto& [from, to] : parts) {
    if (const size_t at = result.find(from); at != std::string::npos) result.replace(at, from.size(), to);
  }
  return result;
}

GgufBuilder gguf_keys(const ModelConfig& c, const std::string& architecture) {
  const auto u32 = [](int64_t n) { return static_cast<uint32_t>(n); };
  GgufBuilder b;
  b.text("general.architecture", architecture);
  const std::string a = architecture + ".";
  b.u32(a + "block_count", u32(c.n_layers))
      .u32(a + "embedding_length", u32(c.hidden_size))
      .u32(a + "feed_forward_length", u32(c.intermediate_size));
  b.u32(a + "attention.head_count", u32(c.n_heads))
      .u32(a + "attention.head_count_kv", u32(c.n_kv_heads))
      .u32(a + "context_length", u32(c.max_position));
  b.u32(a + "attention.key_length", u32(c.head_dim)).u32(a + "attention.value_length", u32(c.head_dim));
  b.f32(a + "attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_norm_eps))
      .f32(a + "rope.freq_base", static_cast<float>(c.rope.theta));
  if (c.layer_window[0] > 0) b.u32(a + "attention.sliding_window", u32(c.layer_window[0]));
  b.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  return b;
}

// The same weights as a GGUF file of f32 tensors, in ggml's order of rows for the llama architecture.
void add_tensors(GgufBuilder& b, const Weights& weights, bool paired) {
  const ModelConfig& c = weights.config();
  for (const NamedParameter& p : weights.parameters) {
    const float* values = static_cast<const float*>(p.view.data);
    const int64_t rows = p.shape[0], cols = p.is_matrix ? p.shape[1] : 1;
    const bool reorder = paired && (p.name.find("q_proj") != std::string::npos || p.name.find("k_proj") != std::string::npos);
    std::vector<float> stored;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t from = reorder ? paired_row(r, c.head_dim) : r;
      stored.insert(stored.end(), values + from * cols, values + (from + 1) * cols);
    }
    std::vector<uint64_t> extents(p.shape.rbegin(), p.shape.rend());
    b.floats(gguf_name(p.name), extents, stored);
  }
}

TEST("weights: a GGUF file loads as the folder it came from, order of rows, biases and head included") {
  for (const Architecture architecture : all_architectures()) {
    const ModelConfig c = tiny_config(architecture);
    const auto weights = random_weights(c, DType::f32, 8, backend().table(), backend().handle());
    for (const NamedParameter& p : weights->parameters) {  // biases that are not zero, norms that are not one
      if (p.is_matrix) continue;
      for (int64_t i = 0; i < p.view.size(); ++i) static_cast<float*>(p.view.data)[i] = static_cast<float>(i % 13) - 5.5f;
    }
    const bool llama = architecture == Architecture::llama || architecture == Architecture::mistral;
    GgufBuilder b = gguf_keys(c, llama ? "llama" : architecture == Architecture::qwen2 ? "qwen2" : "qwen3");
    add_tensors(b, *weights, llama);
    const TempDir dir;
    write_bytes(dir.file("m.gguf"), b.bytes());
    EXPECT_EQ(config_to_json(load_config(dir.file("m.gguf")), "float32"), config_to_json(c, "float32"));
    EXPECT(same_bytes(*load(dir.file("m.gguf")), *weights));
  }
}

TEST("weights: GGUF options that are not run are refused by name") {
  const ModelConfig c = tiny_config(Architecture::llama);
  const auto weights = random_weights(c, DType::f32, 8, backend().table(), backend().handle());
  const TempDir dir;
  const auto expect = [&](const std::function<void(GgufBuilder&)>& add, ErrorCode code, const std::string& part,
                          const std::string& architecture = "llama") {
    GgufBuilder b = gguf_keys(c, architecture);
    add(b);
    add_tensors(b, *weights, true);
    write_bytes(dir.file("m.gguf"), b.bytes());
    EXPECT_ERROR(load_config(dir.file("m.gguf")), code, part);
  };
  expect([](GgufBuilder&) {}, ErrorCode::unsupported, "general.architecture is gemma3; llama, qwen2 and qwen3 are supported", "gemma3");
  expect([](GgufBuilder& b) { b.text("llama.rope.scaling.type", "yarn"); }, ErrorCode::unsupported, "llama.rope.scaling.type is yarn");
  expect([](GgufBuilder& b) { b.u32("llama.expert_count", 8); }, ErrorCode::unsupported, "llama.expert_count is 8");
  expect([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 4); }, ErrorCode::unsupported, "llama.rope.dimension_count is 4");
  expect([](GgufBuilder& b) { b.u32("tokenizer.ggml.eot_token_id", 61); }, ErrorCode::invalid_file, "tokenizer.ggml.eot_token_id is 61");
  expect([](GgufBuilder& b) { b.u32("llama.attention.sliding_window", 4); }, ErrorCode::unsupported, "which no MistralForCausalLM has");
  GgufBuilder b;
  b.text("general.architecture", "llama").floats("token_embd.weight", {4, 3}, std::vector<float>(12, 1));
  write_bytes(dir.file("m.gguf"), b.bytes());
  EXPECT_ERROR(load_config(dir.file("m.gguf")), ErrorCode::invalid_file, "key llama.embedding_length is missing");
}

TEST("weights: GGUF rotary scaling: linear from metadata, llama3 from its tensor of divisors or not at all") {
  ModelConfig c = tiny_config(Architecture::llama);
  c.rope.theta = 500000;
  c.head_dim = 32;
  const auto weights = random_weights(c, DType::f32, 8, backend().table(), backend().handle());
  const TempDir dir;
  const auto config_with = [&](const std::function<void(GgufBuilder&)>& add) {
    GgufBuilder b = gguf_keys(c, "llama");
    add(b);
    add_tensors(b, *weights, true);
    write_bytes(dir.file("m.gguf"), b.bytes());
    return load_config(dir.file("m.gguf"));
  };
  const ModelConfig linear =
      config_with([](GgufBuilder& b) { b.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4); });
  EXPECT(linear.rope.type == RopeType::linear && linear.rope.factor == 4);

  // The divisors as llama.cpp's converter computes them.
  std::vector<float> divisors;
  for (const float frequency : standard_frequencies(c.rope.theta, c.head_dim)) {
    const double wavelength = 6.283185307179586 / static_cast<double>(frequency), smooth = (8192 / wavelength - 1) / 3;
    divisors.push_back(wavelength < 2048 ? 1.0f : wavelength > 8192 ? 32.0f : static_cast<float>(1 / ((1 - smooth) / 32 + smooth)));
  }
  const auto with_divisors = [&](GgufBuilder& b) { b.floats("rope_freqs.weight", {16}, divisors); };
  const ModelConfig llama3 = config_with(with_divisors);
  EXPECT(llama3.rope.type == RopeType::llama3 && llama3.rope.factor == 32 && llama3.rope.original_max_position == 8192);
  EXPECT(same_bytes(*load(dir.file("m.gguf")), *weights));  // the divisors are no weight
  divisors[9] *= 1.01f;
  EXPECT_ERROR(config_with(with_divisors), ErrorCode::unsupported, "rope_freqs.weight[9] is");
  divisors.pop_back();
  EXPECT_ERROR(config_with([&](GgufBuilder& b) { b.floats("rope_freqs.weight", {15}, divisors); }), ErrorCode::invalid_file,
               "rope_freqs.weight is not F32 [16]");
}

TEST("weights: reference folders load and save to the same tensors") {
  const std::string shared = shared_dir();
  if (shared.empty()) skip("no shared folder (RLHI_SHARED)");
  for (const char* name : {"llama", "qwen2"}) {
    const std::string path = shared + "/oracles/dpo/" + name + "/policy";
    const auto weights = load(path);
    const TempDir dir;
    save(dir.path(), *weights, DType::f32, read_text_file(path + "/config.json"));
    const io::SafetensorsFile expected(path + "/model.safetensors"), found(dir.file("model.safetensors"));
    EXPECT_EQ(found.tensors().size(), expected.tensors().size());
    for (const io::SafetensorsEntry& entry : expected.tensors()) {
      const io::SafetensorsEntry* other = found.find(entry.name);
      EXPECT(other && other->shape == entry.shape && std::memcmp(other->data, entry.data, entry.bytes) == 0);
    }
    EXPECT(same_bytes(*load(dir.path()), *weights));
  }
}

TEST("weights: a real GGUF file of Q4_1, Q8_0 and F32 tensors loads") {
  const char* path = std::getenv("RLHI_SMOLLM2");
  if (!path) skip("no RLHI_SMOLLM2 (SmolLM2-135M-Instruct.Q4_1.gguf)");
  const ModelConfig c = load_config(path);
  EXPECT(c.hidden_size == 576 && c.n_layers == 30 && c.n_heads == 9 && c.n_kv_heads == 3 && c.vocab_size == 49152 && c.tied_embeddings);
  EXPECT(c.rope.theta == 100000 && c.rms_norm_eps == 1e-5 && c.rope.type == RopeType::standard);
  const auto weights = load(path, DType::bf16);
  double largest = 0;
  for (int64_t i = 0; i < weights->embed.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(to_float(weights->embed.get<bf16>()[i]))));
  EXPECT(largest > 0.1 && largest < 10);
}

}  // namespace
}  // namespace rlhi::test
