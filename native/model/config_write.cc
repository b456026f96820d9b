// config.json as text, in the form that old and new releases of transformers (and the engines that follow them) read.
#include <algorithm>

#include "base/error.h"
#include "io/json.h"
#include "model/config.h"
#include "model/config_check.h"

namespace rlhi {
namespace {

using io::Json;

Json rope_scaling(const RopeConfig& rope) {
  if (rope.type == RopeType::standard) return Json();
  Json scaling = Json::object();
  scaling.set("factor", Json::real(rope.factor));
  if (rope.type == RopeType::llama3) {
    scaling.set("high_freq_factor", Json::real(rope.high_freq_factor));
    scaling.set("low_freq_factor", Json::real(rope.low_freq_factor));
    scaling.set("original_max_position_embeddings", Json::integer(rope.original_max_position));
  }
  scaling.set("rope_type", Json::string(rope.type == RopeType::linear ? "linear" : "llama3"));
  return scaling;
}

void set_windows(const ModelConfig& c, Json& json) {
  const int32_t window = c.layer_window.empty() ? 0 : *std::max_element(c.layer_window.begin(), c.layer_window.end());
  const Json size = window > 0 ? Json::integer(window) : Json();
  if (c.architecture == Architecture::mistral) {
    json.set("sliding_window", size);
    return;
  }
  if (c.architecture == Architecture::llama) return;
  json.set("use_sliding_window", Json::boolean(window > 0));
  json.set("sliding_window", size);
  Json types = Json::array();
  for (const int32_t w : c.layer_window) types.push_back(Json::string(w > 0 ? "sliding_attention" : "full_attention"));
  json.set("layer_types", std::move(types));
  const auto first = std::find_if(c.layer_window.begin(), c.layer_window.end(), [](int32_t w) { return w > 0; });
  json.set("max_window_layers", Json::integer(first - c.layer_window.begin()));
}

Json eos_json(const std::vector<int32_t>& ids) {
  if (ids.empty()) return Json();
  if (ids.size() == 1) return Json::integer(ids[0]);
  Json list = Json::array();
  for (const int32_t id : ids) list.push_back(Json::integer(id));
  return list;
}

}  // namespace

std::string config_to_json(const ModelConfig& c, const std::string& dtype) {
  Json json = Json::object();
  json.set("architectures", Json::array({Json::string(model_class(c.architecture))}));
  json.set("model_type", Json::string(model_type(c.architecture)));
  if (c.architecture == Architecture::llama || c.architecture == Architecture::qwen3) {
    json.set("attention_bias", Json::boolean(c.qkv_bias));
  }
  json.set("bos_token_id", c.bos_token_id < 0 ? Json() : Json::integer(c.bos_token_id));
  json.set("dtype", Json::string(dtype));
  json.set("eos_token_id", eos_json(c.eos_token_ids));
  json.set("head_dim", Json::integer(c.head_dim));
  json.set("hidden_act", Json::string("silu"));
  json.set("hidden_size", Json::integer(c.hidden_size));
  json.set("initializer_range", Json::real(0.02));
  json.set("intermediate_size", Json::integer(c.intermediate_size));
  json.set("max_position_embeddings", Json::integer(c.max_position));
  json.set("num_attention_heads", Json::integer(c.n_heads));
  json.set("num_hidden_layers", Json::integer(c.n_layers));
  json.set("num_key_value_heads", Json::integer(c.n_kv_heads));
  json.set("rms_norm_eps", Json::real(c.rms_norm_eps));
  json.set("rope_scaling", rope_scaling(c.rope));
  json.set("rope_theta", Json::real(c.rope.theta));
  set_windows(c, json);
  json.set("tie_word_embeddings", Json::boolean(c.tied_embeddings));
  json.set("use_cache", Json::boolean(true));
  json.set("vocab_size", Json::integer(c.vocab_size));
  return json.dump(2) + "\n";
}

}  // namespace rlhi
