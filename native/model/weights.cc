// The layout of parameters and the memory they live in.
#include "model/weights.h"

#include "base/error.h"

namespace rlhi {
namespace {

constexpr int64_t kAlignment = 32;  // elements: 64 bytes in bf16, 128 in f32

// One named part of a merged tensor.
struct Part {
  std::string name;
  int64_t rows;
};

// Walks the model once, laying tensor after tensor; with a base address it also makes the views.
class LayoutBuilder {
 public:
  LayoutBuilder(void* base, DType dtype) : base_(static_cast<char*>(base)), dtype_(dtype) {}

  // A matrix [sum of the parts' rows, cols]; each part is a row range of it.
  Tensor matrix(int64_t cols, const std::vector<Part>& parts) {
    int64_t rows = 0;
    for (const Part& part : parts) {
      add_parameter(part.name, next_ + rows * cols, part.rows, cols, {part.rows, cols});
      rows += part.rows;
    }
    return finish(rows, cols);
  }
  // A vector [1, sum of the parts' lengths]; each part is a column range of it.
  Tensor vector(const std::vector<Part>& parts) {
    int64_t length = 0;
    for (const Part& part : parts) {
      add_parameter(part.name, next_ + length, 1, part.rows, {part.rows});
      length += part.rows;
    }
    return finish(1, length);
  }

  ParameterLayout take() {
    layout_.elements = next_;
    return std::move(layout_);
  }

 private:
  Tensor view(int64_t offset, int64_t rows, int64_t cols) const {
    return Tensor(base_ ? base_ + offset * dtype_size(dtype_) : nullptr, dtype_, rows, cols);
  }
  void add_parameter(const std::string& name, int64_t offset, int64_t rows, int64_t cols, std::vector<int64_t> shape) {
    const bool is_matrix = shape.size() == 2;
    layout_.parameters.push_back({name, view(offset, rows, cols), offset, is_matrix, std::move(shape)});
  }
  Tensor finish(int64_t rows, int64_t cols) {
    const Tensor whole = view(next_, rows, cols);
    next_ = (next_ + rows * cols + kAlignment - 1) / kAlignment * kAlignment;
    return whole;
  }

  char* base_;
  DType dtype_;
  ParameterLayout layout_;
  int64_t next_ = 0;
};

LayerWeights build_layer(const ModelConfig& c, const std::string& prefix, LayoutBuilder& b) {
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const int64_t d = c.hidden_size, q = c.q_width(), kv = c.kv_width(), f = c.intermediate_size;
  LayerWeights w;
  w.input_norm = b.vector({{prefix + "input_layernorm.weight", d}});
  w.qkv = b.matrix(d, {{attention + "q_proj.weight", q}, {attention + "k_proj.weight", kv}, {attention + "v_proj.weight", kv}});
  if (c.qkv_bias) {
    w.qkv_bias = b.vector({{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}});
  }
  if (c.qk_norm) {
    w.q_norm = b.vector({{attention + "q_norm.weight", c.head_dim}});
    w.k_norm = b.vector({{attention + "k_norm.weight", c.head_dim}});
  }
  w.o = b.matrix(q, {{attention + "o_proj.weight", d}});
  if (c.o_bias) w.o_bias = b.vector({{attention + "o_proj.bias", d}});
  w.post_norm = b.vector({{prefix + "post_attention_layernorm.weight", d}});
  w.gate_up = b.matrix(d, {{mlp + "gate_proj.weight", f}, {mlp + "up_proj.weight", f}});
  w.down = b.matrix(f, {{mlp + "down_proj.weight", d}});
  return w;
}

struct Views {
  Tensor embed, final_norm, head;
  std::vector<LayerWeights> layers;
};

ParameterLayout build(const ModelConfig& c, void* base, DType dtype, Views& views) {
  LayoutBuilder b(base, dtype);
  views.embed = b.matrix(c.hidden_size, {{"model.embed_tokens.weight", c.vocab_size}});
  views.layers.reserve(static_cast<size_t>(c.n_layers));
  for (int64_t i = 0; i < c.n_layers; ++i) views.layers.push_back(build_layer(c, concat("model.layers.", i, "."), b));
  views.final_norm = b.vector({{"model.norm.weight", c.hidden_size}});
  views.head = c.tied_embeddings ? views.embed : b.matrix(c.hidden_size, {{"lm_head.weight", c.vocab_size}});
  return b.take();
}

}  // namespace

ParameterLayout parameter_layout(const ModelConfig& config) {
  Views views;
  return build(config, nullptr, DType::f32, views);
}

Weights::Weights(const ModelConfig& config, DType dtype, const ops::Table& ops, ops::Backend* backend)
    : config_(config), dtype_(dtype), ops_(ops), backend_(backend) {
  check(dtype == DType::f32 || dtype == DType::bf16, ErrorCode::invalid_argument, "weights are f32 or bf16, ", dtype_name(dtype),
        " was asked for");
  elements_ = parameter_layout(config).elements;
  const int64_t bytes = elements_ * dtype_size(dtype);
  data_ = ops_.alloc(backend_, static_cast<size_t>(bytes));
  check(data_ != nullptr, ErrorCode::out_of_memory, "the weights need ", bytes, " bytes (", elements_, " parameters in ",
        dtype_name(dtype), "), which ", ops_.backend_name, " could not allocate",
        dtype == DType::f32 ? "; dtype bf16 needs half" : "");
  Views views;
  parameters = build(config, data_, dtype, views).parameters;
  embed = views.embed;
  layers = std::move(views.layers);
  final_norm = views.final_norm;
  head = views.head;
}

Weights::~Weights() {
  if (data_) ops_.release(backend_, data_, static_cast<size_t>(elements_ * dtype_size(dtype_)));
}

}  // namespace rlhi
