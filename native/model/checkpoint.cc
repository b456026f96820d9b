#include "model/checkpoint.h"

#include <algorithm>

#include "base/error.h"
#include "io/safetensors.h"

namespace rlhi {
namespace {

io::Encoding encoding_of(DType dtype) {
  return dtype == DType::f32 ? io::Encoding::f32 : dtype == DType::f16 ? io::Encoding::f16 : io::Encoding::bf16;
}

// Buffers that old checkpoints carry and every engine computes itself.
bool is_rotary_buffer(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") || name.ends_with("rotary_emb.sin_cached");
}

Checkpoint open_folder(const std::string& path) {
  Checkpoint checkpoint{path, {}, {}};
  for (const auto& file : io::open_safetensors_folder(path)) {
    for (const io::SafetensorsEntry& entry : file->tensors()) {
      if (is_rotary_buffer(entry.name)) continue;
      checkpoint.tensors[entry.name] = {entry.shape, encoding_of(io::float_dtype(entry, file->path())), entry.data, 0};
    }
    checkpoint.files.push_back(file);
  }
  return checkpoint;
}

Checkpoint open_gguf(const std::string& path, const ModelConfig& config) {
  const auto file = std::make_shared<io::GgufFile>(path);
  const bool paired = file->text("general.architecture", "") == "llama";
  Checkpoint checkpoint{path, {}, {file}};
  for (const io::GgufTensor& tensor : file->tensors()) {
    if (tensor.name == "rope_freqs.weight") continue;  // already in the configuration's rotary scaling
    const std::string name = huggingface_name(tensor.name);
    const bool query_or_key = name.find("self_attn.q_proj.") != std::string::npos || name.find("self_attn.k_proj.") != std::string::npos;
    checkpoint.tensors[name] = {tensor.shape, tensor.encoding, tensor.data, paired && query_or_key ? config.head_dim : 0};
  }
  return checkpoint;
}

}  // namespace

Checkpoint open_checkpoint(const std::string& path, const ModelConfig& config) {
  return is_directory(path) ? open_folder(path) : open_gguf(path, config);
}

int64_t checkpoint_row_length(const CheckpointTensor& tensor) {
  if (tensor.shape.size() == 1) return tensor.paired_rows > 0 ? 1 : tensor.shape[0];
  return tensor.shape.back();
}

void decode_rows(const CheckpointTensor& tensor, int64_t row, int64_t n_rows, float* to) {
  const int64_t length = checkpoint_row_length(tensor);
  check(length % io::encoding_block_elements(tensor.encoding) == 0, ErrorCode::unsupported, "rows of ", length, " stored as ",
        io::encoding_name(tensor.encoding), " cannot be read one by one");
  const int64_t row_bytes = length / io::encoding_block_elements(tensor.encoding) * io::encoding_block_bytes(tensor.encoding);
  if (tensor.paired_rows == 0) return io::decode(tensor.encoding, tensor.data + row * row_bytes, n_rows * length, to);
  const int64_t head = tensor.paired_rows;
  for (int64_t r = row; r < row + n_rows; ++r, to += length) {
    const int64_t within = r % head;  // half p = within / (head/2), index i = within % (head/2) lies at 2 i + p
    const int64_t stored = r - within + 2 * (within % (head / 2)) + within / (head / 2);
    io::decode(tensor.encoding, tensor.data + stored * row_bytes, length, to);
  }
}

std::string huggingface_name(const std::string& gguf_name) {
  static const std::unordered_map<std::string, std::string> whole = {
      {"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model.norm.weight"}, {"output.weight", "lm_head.weight"}};
  static const std::unordered_map<std::string, std::string> of_layer = {
      {"attn_norm", "input_layernorm"},     {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},       {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
      {"attn_k_norm", "self_attn.k_norm"},  {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},        {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"}};
  if (const auto found = whole.find(gguf_name); found != whole.end()) return found->second;
  if (!gguf_name.starts_with("blk.")) return gguf_name;
  const size_t layer_end = gguf_name.find('.', 4), kind_at = gguf_name.rfind('.');
  if (layer_end == std::string::npos || kind_at <= layer_end) return gguf_name;
  const auto found = of_layer.find(gguf_name.substr(layer_end + 1, kind_at - layer_end - 1));
  if (found == of_layer.end()) return gguf_name;
  return "model.layers." + gguf_name.substr(4, layer_end - 4) + "." + found->second + gguf_name.substr(kind_at);
}

}  // namespace rlhi
