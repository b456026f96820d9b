// The passes over all layers: inference (with and without a cache), and training's forward and backward.
#include "model/transformer.h"

#include <algorithm>

#include "model/activations.h"
#include "model/layer.h"
#include "model/packed_weights.h"

namespace rlhi {

struct Transformer::Impl {
  Impl(const Weights& w, const ops::Table& table, ops::Backend* b) : weights(w), ops(table), backend(b) {}

  const Weights& weights;
  const ops::Table& ops;
  ops::Backend* backend;
  std::unique_ptr<PackedWeights> packs;
  uint64_t version = 0;
  DeviceBuffer rope_buffer;
  int64_t rope_positions = 0;
  DeviceBuffer scratch;                  // of inference
  int64_t scratch_tokens = 0;
  DeviceBuffer rows_buffer;              // [n, D] f32: residual rows at the output; [n, D] m: hidden as the head's operand
  int64_t rows_capacity = 0;

  const ModelConfig& config() const { return weights.config(); }

  // ---- checks and buffers that grow ----------------------------------------------------------------------------------
  void check_tokens(const PackedTokens& tokens, const std::vector<int32_t>& output_rows) const {
    const int64_t n = tokens.size(), context = config().max_position;
    check(tokens.positions.size() == tokens.ids.size(), ErrorCode::internal, "packed tokens: ", tokens.ids.size(), " ids, ",
          tokens.positions.size(), " positions");
    for (int64_t i = 0; i < n; ++i) {
      const int32_t id = tokens.ids[static_cast<size_t>(i)], position = tokens.positions[static_cast<size_t>(i)];
      check(id >= 0 && id < config().vocab_size, ErrorCode::invalid_argument, "token id ", id, " is outside the vocabulary of ",
            config().vocab_size);
      check(position >= 0 && position < context, ErrorCode::invalid_argument, "position ", position, " is outside the model's context of ",
            context, " tokens");
    }
    for (const int32_t r : output_rows) check(r >= 0 && r < n, ErrorCode::internal, "output row ", r, " of ", n, " rows");
  }

  Tensor rope_for(const PackedTokens& tokens) {
    const int64_t needed = 1 + *std::max_element(tokens.positions.begin(), tokens.positions.end());
    if (needed > rope_positions) {
      const int64_t positions = std::min(config().max_position, std::max<int64_t>({needed, 2 * rope_positions, 512}));
      const std::vector<float> table = rope_table(config(), positions);
      rope_buffer = DeviceBuffer(ops, backend, table.size() * sizeof(float), "the rope table");
      ops.upload(backend, rope_buffer.data(), table.data(), rope_buffer.bytes());
      rope_positions = positions;
    }
    return Tensor(rope_buffer.data(), DType::f32, rope_positions, config().head_dim);
  }

  InferenceTensors inference_tensors(int64_t tokens) {
    if (tokens > scratch_tokens) {
      scratch.reset();
      scratch_tokens = 0;
      scratch = DeviceBuffer(ops, backend, lay_out_inference(config(), weights.dtype(), tokens, nullptr).bytes, "a forward's scratch");
      scratch_tokens = tokens;
    }
    return lay_out_inference(config(), weights.dtype(), scratch_tokens, scratch.data());
  }

  struct OutputRows {
    Tensor residual, hidden;             // [n, D] f32, [n, D] m
  };
  OutputRows output_tensors(int64_t n) {
    const auto lay_out = [&](int64_t rows, void* base, OutputRows& out) {
      BufferCutter cut(base);
      out.residual = cut.take(DType::f32, rows, config().hidden_size);
      out.hidden = cut.take(weights.dtype(), rows, config().hidden_size);
      return cut.bytes();
    };
    OutputRows out;
    if (n > rows_capacity) {
      rows_buffer.reset();
      rows_capacity = 0;
      rows_buffer = DeviceBuffer(ops, backend, lay_out(n, nullptr, out), "output rows");
      rows_capacity = n;
    }
    lay_out(rows_capacity, rows_buffer.data(), out);
    return {out.residual.row_range(0, n), out.hidden.row_range(0, n)};
  }

  // ---- passes --------------------------------------------------------------------------------------------------------
  const LayerPacks* layer_packs(int64_t l) const { return packs ? &packs->layer(l) : nullptr; }

  void final_norm(Tensor hidden, Tensor rows, Tensor rstd, Tensor copy) {
    ops.rms_norm(backend, hidden, rows, weights.final_norm, static_cast<float>(config().rms_norm_eps), 1, rstd, copy);
  }

  void infer(LayerPass& pass, const std::vector<int32_t>& output_rows, Tensor hidden) {
    const auto n_out = static_cast<int64_t>(output_rows.size());
    check(hidden.rows == n_out && hidden.cols == config().hidden_size, ErrorCode::internal, "hidden is [", hidden.rows, ", ", hidden.cols,
          "], not [", n_out, ", ", config().hidden_size, "]");
    const int64_t n = pass.tokens.size();
    if (n == 0) return;
    pass.rope = rope_for(pass.tokens);
    const InferenceTensors t = inference_tensors(n);
    const Tensor rows = n_out > 0 ? output_tensors(n_out).residual : Tensor();
    auto all_layers = [&] { infer_layers(pass, t, output_rows, rows, hidden); };
    const std::vector<ops::QuerySegment>& segments = pass.tokens.segments;
    const bool decodes = pass.cache && std::all_of(segments.begin(), segments.end(), [](const ops::QuerySegment& s) { return s.length == 1; });
    if (!decodes) return all_layers();
    using Work = decltype(all_layers);
    const uint64_t key = static_cast<uint64_t>(n) << 32 | static_cast<uint64_t>(n_out);
    ops.repeated(backend, key, [](void* work) { (*static_cast<Work*>(work))(); }, &all_layers);
  }

  void infer_layers(const LayerPass& pass, const InferenceTensors& t, const std::vector<int32_t>& output_rows, Tensor rows, Tensor hidden) {
    const LayerActivations a = t.layer.rows(pass.tokens.size());
    const WorkTensors work = t.work.rows(pass.tokens.size());
    ops.embedding(backend, work.x, weights.embed, pass.tokens.ids.data());
    for (int64_t l = 0; l < config().n_layers; ++l) layer_forward(pass, l, weights.layers[static_cast<size_t>(l)], layer_packs(l), a, work);
    if (!rows) return;
    ops.gather_rows(backend, rows, work.x, output_rows.data());
    final_norm(hidden, rows, Tensor(), Tensor());
  }
};

Transformer::Transformer(const Weights& weights, const ops::Table& ops, ops::Backend* backend)
    : impl_(std::make_unique<Impl>(weights, ops, backend)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config(); }
const Weights& Transformer::weights() const { return impl_->weights; }

void Transformer::pack() {
  if (!impl_->packs && packed_bytes() > 0) impl_->packs = std::make_unique<PackedWeights>(impl_->weights, impl_->ops, impl_->backend);
}
void Transformer::weights_changed() {
  impl_->packs.reset();
  ++impl_->version;
}
uint64_t Transformer::weights_version() const { return impl_->version; }
void Transformer::release_inference_memory() {
  impl_->packs.reset();
  impl_->scratch.reset();
  impl_->rows_buffer.reset();
  impl_->scratch_tokens = impl_->rows_capacity = 0;
}
size_t Transformer::packed_bytes() const { return PackedWeights::bytes(config(), impl_->weights.dtype(), impl_->ops, impl_->backend); }
const ops::PackedWeight* Transformer::packed_head() const { return impl_->packs ? &impl_->packs->head() : nullptr; }

// ---- inference -------------------------------------------------------------------------------------------------------
void Transformer::forward_cached(const PackedTokens& tokens, const std::vector<int32_t>& cache_rows, KvCache& cache,
                                 const std::vector<int32_t>& output_rows, Tensor hidden) {
  impl_->check_tokens(tokens, output_rows);
  check(cache_rows.size() == tokens.ids.size(), ErrorCode::internal, cache_rows.size(), " cache rows for ", tokens.ids.size(), " tokens");
  for (const int32_t r : cache_rows) check(r >= 0 && r < cache.rows(), ErrorCode::internal, "cache row ", r, " of ", cache.rows(), " rows");
  LayerPass pass{impl_->ops, impl_->backend, config(), tokens, Tensor(), &cache, cache_rows.data()};
  impl_->infer(pass, output_rows, hidden);
}

void Transformer::forward_rows(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Tensor hidden) {
  impl_->check_tokens(tokens, output_rows);
  LayerPass pass{impl_->ops, impl_->backend, config(), tokens, Tensor()};
  impl_->infer(pass, output_rows, hidden);
}

void Transformer::logits(Tensor hidden, Tensor logits) {
  Impl& m = *impl_;
  check(hidden.cols == config().hidden_size && logits.rows == hidden.rows && logits.cols == config().vocab_size, ErrorCode::internal,
        "logits of [", hidden.rows, ", ", hidden.cols, "] into [", logits.rows, ", ", logits.cols, "]");
  if (hidden.rows == 0) return;
  Tensor operand = hidden;
  if (hidden.dtype != m.weights.dtype()) {  // rounds as the training forward's final norm does
    operand = m.output_tensors(hidden.rows).hidden;
    m.ops.copy(m.backend, operand, hidden);
  }
  ops::GemmArgs g;
  g.form = ops::GemmForm::nt;
  g.a = operand, g.b = m.weights.head, g.c = logits;
  g.packed_b = packed_head();
  m.ops.gemm(m.backend, g);
}

// ---- training --------------------------------------------------------------------------------------------------------
const char* recompute_name(Recompute level) {
  return level == Recompute::none ? "none" : level == Recompute::norms ? "norms" : "layers";
}
Recompute recompute_from_name(const std::string& name) {
  for (const Recompute level : {Recompute::none, Recompute::norms, Recompute::layers}) {
    if (name == recompute_name(level)) return level;
  }
  fail(ErrorCode::invalid_argument, "recompute: expected \"none\", \"norms\" or \"layers\", found \"", name, "\"");
}

std::unique_ptr<Transformer::Activations> Transformer::plan_activations(Recompute recompute, int64_t max_tokens, int64_t max_output_rows) const {
  auto a = std::make_unique<Activations>();
  const DType dtype = impl_->weights.dtype();
  a->max_tokens = max_tokens, a->max_output_rows = max_output_rows;
  const auto lay_out = [&](void* base) { return lay_out_training(config(), dtype, recompute, max_tokens, max_output_rows, base); };
  a->buffer = DeviceBuffer(impl_->ops, impl_->backend, lay_out(nullptr).bytes, "activations");
  a->t = lay_out(a->buffer.data());
  return a;
}

Tensor Transformer::forward(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Activations& activations) {
  Impl& m = *impl_;
  m.check_tokens(tokens, output_rows);
  const int64_t n = tokens.size();
  const auto n_out = static_cast<int64_t>(output_rows.size());
  check(n > 0 && n <= activations.max_tokens && n_out <= activations.max_output_rows, ErrorCode::internal, "a micro-batch of ", n,
        " tokens and ",
        n_out, " output rows in activations planned for ", activations.max_tokens, " and ", activations.max_output_rows);
  const TrainingTensors& t = activations.t;
  const WorkTensors work = t.work.rows(n);
  const LayerPass pass{m.ops, m.backend, config(), tokens, m.rope_for(tokens)};
  m.ops.embedding(m.backend, work.x, m.weights.embed, tokens.ids.data());
  for (int64_t l = 0; l < config().n_layers; ++l) {
    const auto i = static_cast<size_t>(l);
    layer_forward(pass, l, m.weights.layers[i], m.layer_packs(l), t.layers[i].rows(n), work);
  }
  const Tensor hidden = t.hidden.row_range(0, n_out), rows = t.out_rows_f32.row_range(0, n_out);
  if (n_out == 0) return hidden;
  m.ops.gather_rows(m.backend, rows, work.x, output_rows.data());
  m.final_norm(hidden, rows, t.rstd_out.row_range(0, n_out), t.out_x.row_range(0, n_out));
  return hidden;
}

void Transformer::backward(const PackedTokens& tokens, const std::vector<int32_t>& output_rows, Activations& activations, Tensor dhidden,
                           Weights& gradients, bool accumulate) {
  Impl& m = *impl_;
  const int64_t n = tokens.size();
  const auto n_out = static_cast<int64_t>(output_rows.size());
  check(dhidden.rows == n_out && dhidden.cols == config().hidden_size, ErrorCode::internal, "dhidden is [", dhidden.rows, ", ",
        dhidden.cols, "]");
  const TrainingTensors& t = activations.t;
  const WorkTensors work = t.work.rows(n);
  const Tensor drows = t.out_rows_f32.row_range(0, n_out), dx = work.x;
  m.ops.zero(m.backend, dx.data, static_cast<size_t>(dx.bytes()));
  m.ops.rms_norm_backward(m.backend, drows, gradients.final_norm, dhidden, t.out_x.row_range(0, n_out), m.weights.final_norm,
                          t.rstd_out.row_range(0, n_out), 1, false);
  m.ops.scatter_add_rows(m.backend, dx, drows, output_rows.data());  // a prompt's last row predicts the first token of every answer
  LayerPass pass{m.ops, m.backend, config(), tokens, m.rope_for(tokens)};
  pass.accumulate = accumulate;
  for (int64_t l = config().n_layers - 1; l >= 0; --l) {
    const auto i = static_cast<size_t>(l);
    const LayerActivations a = t.layers[i].rows(n);
    // The last layer's tensors are those of the forward still.
    if (a.input && l + 1 < config().n_layers) layer_recompute(pass, l, m.weights.layers[i], a, work);
    layer_backward(pass, l, m.weights.layers[i], a, work, gradients.layers[i]);
  }
  m.ops.scatter_add_rows(m.backend, gradients.embed, dx, tokens.ids.data());
}

}  // namespace rlhi
