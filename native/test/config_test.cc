// Configurations: both forms of config.json, transformers' defaults, refusals by name, rotary tables.
#include <set>

#include "base/mapped_file.h"
#include "io/json.h"
#include "model/config.h"
#include "model/weights.h"
#include "test/check.h"

namespace rlhi::test {
namespace {

ModelConfig read(const std::string& text) { return config_from_json(io::Json::parse(text, "config.json"), "config.json"); }

// A small valid configuration with more members appended.
std::string with(const std::string& type, const std::string& more = "") {
  return R"({"model_type":")" + type +
         R"(","hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,)" +
         R"("num_key_value_heads":2,"vocab_size":100)" +
         (more.empty() ? "" : "," + more) + "}";
}

bool same(const ModelConfig& a, const ModelConfig& b) { return config_to_json(a, "float32") == config_to_json(b, "float32"); }

TEST("config: absent keys take transformers' defaults, architecture by architecture") {
  const ModelConfig llama = read(R"({"model_type":"llama"})");
  EXPECT_EQ(llama.vocab_size, 32000);
  EXPECT_EQ(llama.intermediate_size, 11008);
  EXPECT_EQ(llama.n_kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 128);
  EXPECT_EQ(llama.max_position, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.rope.theta, 10000.0);
  EXPECT(!llama.tied_embeddings && !llama.qkv_bias && !llama.o_bias && !llama.qk_norm);
  EXPECT(llama.bos_token_id == 1 && llama.eos_token_ids == std::vector<int32_t>{2});
  const ModelConfig mistral = read(R"({"model_type":"mistral"})");
  EXPECT(mistral.n_kv_heads == 8 && mistral.intermediate_size == 14336 && mistral.max_position == 131072);
  EXPECT(mistral.layer_window == std::vector<int32_t>(32, 4096));
  const ModelConfig qwen2 = read(R"({"model_type":"qwen2"})");
  EXPECT(qwen2.vocab_size == 151936 && qwen2.n_kv_heads == 32 && qwen2.qkv_bias && !qwen2.o_bias);
  EXPECT(qwen2.bos_token_id == -1 && qwen2.eos_token_ids.empty());
  EXPECT(qwen2.layer_window == std::vector<int32_t>(32, 0));
  const ModelConfig qwen3 = read(R"({"model_type":"qwen3","hidden_size":1024,"num_attention_heads":16,"num_key_value_heads":8})");
  EXPECT(qwen3.head_dim == 128 && qwen3.qk_norm && !qwen3.qkv_bias);
}

TEST("config: ends of text outside the vocabulary are left out, sizes beyond any model are refused") {
  EXPECT(read(R"({"model_type":"llama","vocab_size":517,"eos_token_id":[2,522]})").eos_token_ids == std::vector<int32_t>{2});
  EXPECT_ERROR(read(R"({"model_type":"llama","hidden_size":1073741824,"head_dim":65536,"num_attention_heads":65536,"num_key_value_heads":65536,"num_hidden_layers":10000})"),
               ErrorCode::invalid_file, "fewer than 2^45");
}

TEST("config: null is the class's none, not its default") {
  EXPECT_EQ(read(R"({"model_type":"mistral","num_key_value_heads":null})").n_kv_heads, 32);
  EXPECT_EQ(read(R"({"model_type":"mistral","sliding_window":null})").layer_window[0], 0);
  EXPECT_EQ(read(R"({"model_type":"llama","head_dim":null,"rope_scaling":null})").head_dim, 128);
  EXPECT(read(R"({"model_type":"llama","eos_token_id":null})").eos_token_ids.empty());
  EXPECT_EQ(read(R"({"model_type":"llama","bos_token_id":null})").bos_token_id, -1);
}

TEST("config: biases, q/k norm and head_dim as the architecture has them") {
  const ModelConfig biased = read(with("llama", R"("attention_bias":true)"));
  EXPECT(biased.qkv_bias && biased.o_bias);
  EXPECT(read(with("qwen2", R"("attention_bias":true)")).o_bias == false);
  const ModelConfig qwen3 = read(with("qwen3", R"("head_dim":32,"attention_bias":true)"));
  EXPECT(qwen3.qk_norm && qwen3.qkv_bias && qwen3.o_bias && qwen3.q_width() == 128 && qwen3.kv_width() == 64 && qwen3.qkv_width() == 256);
  EXPECT_EQ(read(with("llama", R"("head_dim":24)")).head_dim, 24);
  EXPECT(read(with("llama", R"("eos_token_id":[5,6])")).eos_token_ids == (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(read(R"({"architectures":["Qwen2ForCausalLM"]})").qkv_bias, true);
}

TEST("config: sliding windows layer by layer") {
  EXPECT(read(with("mistral", R"("sliding_window":16)")).layer_window == std::vector<int32_t>(4, 16));
  EXPECT(read(with("qwen2", R"("sliding_window":16,"max_window_layers":2)")).layer_window == std::vector<int32_t>(4, 0));
  EXPECT(read(with("qwen2", R"("use_sliding_window":true,"sliding_window":16,"max_window_layers":2)")).layer_window ==
         (std::vector<int32_t>{0, 0, 16, 16}));
  EXPECT(read(with("qwen3", R"("use_sliding_window":true,"max_window_layers":3)")).layer_window == (std::vector<int32_t>{0, 0, 0, 4096}));
  const std::string types = R"("layer_types":["sliding_attention","full_attention","full_attention","sliding_attention"])";
  EXPECT(read(with("qwen2", R"("use_sliding_window":true,"sliding_window":8,)" + types)).layer_window ==
         (std::vector<int32_t>{8, 0, 0, 8}));
  EXPECT_ERROR(read(with("qwen2", types)), ErrorCode::invalid_file, "layer_types[0] is sliding_attention, but there is no window");
  EXPECT_ERROR(read(with("qwen2", R"("layer_types":["full_attention"])")), ErrorCode::invalid_file,
               "layer_types has 1 entries, expected one for each of 4");
  EXPECT_ERROR(read(with("qwen2", R"("layer_types":["full_attention","full_attention","full_attention","linear_attention"])")),
               ErrorCode::unsupported, "layer_types[3] is \"linear_attention\"");
}

TEST("config: the old and the new form of rotary parameters are the same") {
  const std::string llama3 = R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64)";
  const ModelConfig old_form = read(with("llama", R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3",)" + llama3 + "}"));
  const ModelConfig new_form = read(with("llama", R"("rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3",)" + llama3 + "}"));
  EXPECT(same(old_form, new_form));
  EXPECT(new_form.rope.type == RopeType::llama3 && new_form.rope.factor == 8 && new_form.rope.original_max_position == 64 &&
         new_form.rope.theta == 500000);
  const ModelConfig linear = read(with("llama", R"("rope_scaling":{"type":"linear","factor":2})"));
  EXPECT(linear.rope.type == RopeType::linear && linear.rope.factor == 2 && linear.rope.theta == 10000);
  EXPECT(read(with("llama", R"("rope_parameters":{"rope_theta":7.0,"rope_type":"default"})")).rope.theta == 7);
  EXPECT(read(with("llama", R"("rope_scaling":{})")).rope.type == RopeType::standard);
  EXPECT_ERROR(read(with("llama", R"("rope_scaling":{"type":"linear"})")), ErrorCode::invalid_file,
               "rope_scaling: factor is missing; rope_type linear needs it");
  for (const char* type : {"dynamic", "yarn", "longrope", "mrope"}) {
    EXPECT_ERROR(read(with("llama", R"("rope_scaling":{"factor":2.0,"type":")" + std::string(type) + "\"}")), ErrorCode::unsupported,
                 concat("rope_type is ", type, "; default, linear and llama3 are supported"));
  }
}

TEST("config: what is not run is refused, naming the key, what was found and what is supported") {
  const auto expect = [&](const std::string& text, const char* part, ErrorCode code = ErrorCode::unsupported) {
    EXPECT_ERROR(read(text), code, part);
  };
  expect(with("mixtral"), "config.json: model_type is mixtral; llama, mistral, qwen2 and qwen3 are supported");
  expect(with("qwen3_moe"), "model_type is qwen3_moe");
  expect(with("gemma2"), "model_type is gemma2");
  expect("{}", "model_type is missing", ErrorCode::invalid_file);
  expect(R"({"architectures":["GPT2LMHeadModel"]})", "architectures is GPT2LMHeadModel");
  expect(with("llama", R"("architectures":["LlamaForSequenceClassification"])"), "architectures is LlamaForSequenceClassification");
  expect(with("llama", R"("hidden_act":"gelu")"), "hidden_act is gelu; silu is supported");
  expect(with("llama", R"("mlp_bias":true)"), "mlp_bias is true");
  expect(with("llama", R"("quantization_config":{"bits":4})"), "quantization_config is set");
  expect(with("llama", R"("partial_rotary_factor":0.5)"), "partial_rotary_factor is 0.5");
  expect(with("llama", R"("head_dim":15)"), "head_dim is 15");
  expect("[]", "expected an object, found an array", ErrorCode::invalid_file);
}

TEST("config: sizes that cannot be are refused by name") {
  const auto expect = [&](const std::string& text, const char* part) { EXPECT_ERROR(read(text), ErrorCode::invalid_file, part); };
  expect(R"({"model_type":"llama","hidden_size":"64"})", "hidden_size is \"64\", expected an integer");
  expect(R"({"model_type":"llama","hidden_size":64.5})", "hidden_size is 64.5, expected an integer");
  expect(R"({"model_type":"llama","vocab_size":0})", "vocab_size is 0, expected 1 to");
  expect(R"({"model_type":"llama","num_attention_heads":0})", "num_attention_heads is 0");
  expect(R"({"model_type":"llama","num_hidden_layers":9999999999})", "num_hidden_layers is 9999999999");
  expect(R"({"model_type":"llama","num_key_value_heads":5})", "num_attention_heads (32) is not a multiple of num_key_value_heads (5)");
  expect(with("llama", R"("rms_norm_eps":-1.0)"), "rms_norm_eps is -1");
  expect(with("llama", R"("rope_theta":0)"), "rope_theta is 0");
  expect(with("mistral", R"("sliding_window":-1)"), "sliding_window is -1");
  expect(with("llama", R"("eos_token_id":[1,-2])"), "eos_token_id holds -2");
  expect(with("llama", R"("tie_word_embeddings":"yes")"), "tie_word_embeddings is \"yes\", expected true or false");
}

TEST("config: what is written reads back the same") {
  std::vector<ModelConfig> configs;
  for (const char* name : {"smollm2-135m", "smollm2-360m", "llama-3.2-1b", "llama-3.1-8b", "qwen2.5-0.5b", "qwen3-0.6b", "mistral-7b"}) {
    EXPECT(is_named_shape(name));
    configs.push_back(named_shape(name));
  }
  configs.push_back(read(with("llama", R"("attention_bias":true,"rope_scaling":{"type":"linear","factor":2.5},"eos_token_id":[5,6])")));
  configs.push_back(read(with("qwen3", R"("head_dim":32,"use_sliding_window":true,"sliding_window":8,"max_window_layers":2)")));
  configs.push_back(read(with("mistral", R"("sliding_window":null)")));
  std::set<std::string> texts;
  for (const ModelConfig& c : configs) {
    const ModelConfig again = read(config_to_json(c, "bfloat16"));
    EXPECT_EQ(config_to_json(again, "float32"), config_to_json(c, "float32"));
    EXPECT(again.layer_window == c.layer_window && again.eos_token_ids == c.eos_token_ids && again.o_bias == c.o_bias);
    EXPECT(texts.insert(config_to_json(c, "float32")).second);
  }
  EXPECT_ERROR(named_shape("gpt-2"), ErrorCode::invalid_argument, "known are smollm2-135m");
  EXPECT(!is_named_shape("gpt-2"));
}

TEST("config: named shapes have the published numbers of parameters") {
  const auto count = [](const char* name) {
    int64_t n = 0;
    for (const NamedParameter& p : parameter_layout(named_shape(name)).parameters) n += p.view.size();
    return n;
  };
  EXPECT_EQ(count("smollm2-135m"), 134515008);
  EXPECT_EQ(count("smollm2-360m"), 361821120);
  EXPECT_EQ(count("llama-3.2-1b"), 1235814400);
  EXPECT_EQ(count("llama-3.1-8b"), 8030261248);
  EXPECT_EQ(count("qwen2.5-0.5b"), 494032768);
  EXPECT_EQ(count("qwen3-0.6b"), 596049920);
  EXPECT_EQ(count("mistral-7b"), 7241732096);
}

// cos and sin of position * frequency, from the f32 inverse frequencies of LlamaRotaryEmbedding (transformers 5.18, PyTorch 2.13).
TEST("rope: tables agree with transformers' frequencies at positions up to 32,000") {
  struct Known {
    std::string config;
    size_t index;
    double frequency;
  };
  const std::string llama3 = R"("rope_theta":500000.0,"head_dim":16,"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
                             R"("low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})";
  const Known known[] = {
      {"llama3", 0, 1},
      {"llama3", 1, 0.079403013},
      {"llama3", 2, 0.00470075384},
      {"llama3", 3, 0.000911583134},
      {"llama3", 4, 0.000176776681},
      {"llama3", 5, 3.42810235e-05},
      {"llama3", 6, 6.64786967e-06},
      {"llama3", 7, 1.28917316e-06},
      {R"("head_dim":64,"rope_theta":100000.0)", 0, 1},
      {R"("head_dim":64,"rope_theta":100000.0)", 1, 0.697830558},
      {R"("head_dim":64,"rope_theta":100000.0)", 2, 0.486967534},
      {R"("head_dim":64,"rope_theta":100000.0)", 7, 0.0805842131},
      {R"("head_dim":64,"rope_theta":100000.0)", 15, 0.00453158375},
      {R"("head_dim":64,"rope_theta":100000.0)", 31, 1.43301268e-05},
      {R"("head_dim":128,"rope_theta":500000.0)", 1, 0.814617217},
      {R"("head_dim":128,"rope_theta":500000.0)", 2, 0.663601279},
      {R"("head_dim":128,"rope_theta":500000.0)", 3, 0.540580988},
      {R"("head_dim":128,"rope_theta":500000.0)", 33, 0.00115204265},
      {R"("head_dim":128,"rope_theta":500000.0)", 63, 2.4551407e-06},
      {R"("head_dim":80,"rope_scaling":{"type":"linear","factor":2.5})", 0, 0.400000006},
      {R"("head_dim":80,"rope_scaling":{"type":"linear","factor":2.5})", 1, 0.317731291},
      {R"("head_dim":80,"rope_scaling":{"type":"linear","factor":2.5})", 5, 0.1264911},
      {R"("head_dim":80,"rope_scaling":{"type":"linear","factor":2.5})", 39, 5.03570081e-05},
  };
  for (const Known& k : known) {
    const ModelConfig c = read(with("llama", k.config == "llama3" ? llama3 : k.config));
    const std::vector<float> table = rope_table(c, 32001);
    const size_t half = static_cast<size_t>(c.head_dim / 2);
    for (const int64_t p : {0, 1, 63, 4097, 32000}) {
      const float angle = static_cast<float>(p) * static_cast<float>(k.frequency);
      EXPECT_NEAR(table[static_cast<size_t>(p) * 2 * half + k.index], std::cos(static_cast<double>(angle)), 1e-6);
      EXPECT_NEAR(table[static_cast<size_t>(p) * 2 * half + half + k.index], std::sin(static_cast<double>(angle)), 1e-6);
    }
  }
}

TEST("config: reference folders load") {
  const std::string shared = shared_dir();
  if (shared.empty()) skip("no shared folder (RLHI_SHARED)");
  const ModelConfig llama = load_config(shared + "/oracles/dpo/llama/policy");
  EXPECT(llama.hidden_size == 96 && llama.n_heads == 6 && llama.n_kv_heads == 2 && llama.tied_embeddings && llama.vocab_size == 517);
  const ModelConfig qwen2 = load_config(shared + "/oracles/dpo/qwen2/policy");
  EXPECT(qwen2.qkv_bias && !qwen2.tied_embeddings && qwen2.rope.theta == 1e6 && qwen2.head_dim == 16);
}

}  // namespace
}  // namespace rlhi::test
