// A checkpoint's tensors under their Hugging Face names, whatever the form of the file they lie in.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/encoding.h"
#include "io/gguf.h"
#include "model/config.h"

namespace rlhi {

struct CheckpointTensor {
  std::vector<int64_t> shape;
  io::Encoding encoding = io::Encoding::f32;
  const uint8_t* data = nullptr;
  // ggml orders the rows of q and k of the llama architecture in pairs (i, i + head_dim/2) for its interleaved rotary
  // embedding: this many rows a head are put back in order as they are read. 0: the order is ours.
  int64_t paired_rows = 0;
};

struct Checkpoint {
  std::string path;
  std::unordered_map<std::string, CheckpointTensor> tensors;
  std::vector<std::shared_ptr<const void>> files;  // keep the mappings alive
};

// PATH: a Hugging Face folder or a GGUF file. Throws io, invalid_file, unsupported.
Checkpoint open_checkpoint(const std::string& path, const ModelConfig& config);

// [row, row + n_rows) of the tensor seen as a matrix of rows (a vector: one row, or rows of one number when
// paired_rows is set), as f32.
int64_t checkpoint_row_length(const CheckpointTensor& tensor);
void decode_rows(const CheckpointTensor& tensor, int64_t row, int64_t n_rows, float* to);

// Throws unsupported for other architectures and options, invalid_file for metadata that is missing or contradicts itself.
ModelConfig config_from_gguf(const io::GgufFile& file);
// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name of another kind stays as it is.
std::string huggingface_name(const std::string& gguf_name);

}  // namespace rlhi
