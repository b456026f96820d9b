// The layout of parameters and the memory they live in.
#include "model/weights.h"

#include <algorithm>

#include "base/error.h"

namespace rlhi {
namespace {

constexpr int64_t kAlignment = 32;  // elements: 64 bytes in bf16, 128 in f32

// One named part of a merged tensor.
struct Part {
  std::string name;
  int64_t rows;
};

// Walks the model once, laying matrices one after the other from the start, vectors from `matrix_elements` on; with a base address it
// also makes the views.
class LayoutBuilder {
 public:
  LayoutBuilder(void* base, DType matrices, DType vectors, int64_t matrix_elements)
      : base_(static_cast<char*>(base)), matrices_(matrices), vectors_(vectors), matrix_elements_(matrix_elements), next_vector_(matrix_elements) {}

  // A matrix [sum of the parts' rows, cols]; each part is a row range of it.
  Tensor matrix(int64_t cols, const std::vector<Part>& parts) {
    int64_t rows = 0;
    for (const Part& part : parts) {
      add_parameter(part.name, next_matrix_ + rows * cols, part.rows, cols, {part.rows, cols});
      rows += part.rows;
    }
    return finish(next_matrix_, rows, cols);
  }
  // A vector [1, sum of the parts' lengths]; each part is a column range of it.
  Tensor vector(const std::vector<Part>& parts) {
    int64_t length = 0;
    for (const Part& part : parts) {
      add_parameter(part.name, next_vector_ + length, 1, part.rows, {part.rows});
      length += part.rows;
    }
    return finish(next_vector_, 1, length);
  }

  ParameterLayout take() {
    layout_.matrix_elements = (next_matrix_ + ops::kMomentBlock - 1) / ops::kMomentBlock * ops::kMomentBlock;
    layout_.elements = next_vector_;
    return std::move(layout_);
  }

 private:
  Tensor view(int64_t offset, int64_t rows, int64_t cols) const {
    const int64_t in_matrices = std::min(offset, matrix_elements_), beyond = offset - in_matrices;
    const DType dtype = beyond > 0 || offset == matrix_elements_ ? vectors_ : matrices_;
    return Tensor(base_ ? base_ + in_matrices * dtype_size(matrices_) + beyond * dtype_size(vectors_) : nullptr, dtype, rows, cols);
  }
  void add_parameter(const std::string& name, int64_t offset, int64_t rows, int64_t cols, std::vector<int64_t> shape) {
    const bool is_matrix = shape.size() == 2;
    layout_.parameters.push_back({name, view(offset, rows, cols), offset, is_matrix, std::move(shape)});
  }
  Tensor finish(int64_t& next, int64_t rows, int64_t cols) const {
    const Tensor whole = view(next, rows, cols);
    next = (next + rows * cols + kAlignment - 1) / kAlignment * kAlignment;
    return whole;
  }

  char* base_;
  DType matrices_, vectors_;
  int64_t matrix_elements_;
  ParameterLayout layout_;
  int64_t next_matrix_ = 0, next_vector_;
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

ParameterLayout lay_out(const ModelConfig& c, LayoutBuilder b, Views& views) {
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
  const int64_t matrices = lay_out(config, LayoutBuilder(nullptr, DType::f32, DType::f32, 0), views).matrix_elements;
  views = {};
  return lay_out(config, LayoutBuilder(nullptr, DType::f32, DType::f32, matrices), views);
}

Weights::Weights(const ModelConfig& config, DType dtype, const ops::Table& ops, ops::Backend* backend, std::optional<DType> vectors)
    : config_(config), dtype_(dtype), vectors_dtype_(vectors.value_or(dtype)), ops_(ops), backend_(backend) {
  check(dtype == DType::f32 || dtype == DType::bf16, ErrorCode::invalid_argument, "weights are f32 or bf16, ", dtype_name(dtype),
        " was asked for");
  const ParameterLayout layout = parameter_layout(config);
  elements_ = layout.elements, matrix_elements_ = layout.matrix_elements;
  data_ = ops_.alloc(backend_, bytes());
  check(data_ != nullptr, ErrorCode::out_of_memory, "the weights need ", bytes(), " bytes (", elements_, " parameters in ",
        dtype_name(dtype), "), which ", ops_.backend_name, " could not allocate",
        dtype == DType::f32 ? "; dtype bf16 needs half" : "");
  Views views;
  parameters = lay_out(config, LayoutBuilder(data_, dtype_, vectors_dtype_, matrix_elements_), views).parameters;
  embed = views.embed;
  layers = std::move(views.layers);
  final_norm = views.final_norm;
  head = views.head;
}

Weights::~Weights() {
  if (data_) ops_.release(backend_, data_, bytes());
}

size_t Weights::bytes() const { return static_cast<size_t>(matrices().bytes() + vectors().bytes()); }
Tensor Weights::matrices() const { return Tensor(data_, dtype_, 1, matrix_elements_); }
Tensor Weights::vectors() const {
  return Tensor(static_cast<char*>(data_) + matrix_elements_ * dtype_size(dtype_), vectors_dtype_, 1, elements_ - matrix_elements_);
}

}  // namespace rlhi
