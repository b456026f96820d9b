#include "model/packed_weights.h"

namespace rlhi {
namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

size_t PackedWeights::bytes(const ModelConfig& c, DType dtype, const ops::Table& ops, ops::Backend* backend) {
  const auto of = [&](int64_t n, int64_t k) { return aligned(ops.packed_bytes(backend, dtype, n, k)); };
  const size_t layer = of(c.qkv_width(), c.hidden_size) + of(c.hidden_size, c.q_width()) + of(2 * c.intermediate_size, c.hidden_size) +
                       of(c.hidden_size, c.intermediate_size);
  return static_cast<size_t>(c.n_layers) * layer + of(c.vocab_size, c.hidden_size);
}

PackedWeights::PackedWeights(const Weights& weights, const ops::Table& ops, ops::Backend* backend)
    : buffer_(ops, backend, bytes(weights.config(), weights.dtype(), ops, backend), "packed weights"), layers_(weights.layers.size()) {
  char* at = static_cast<char*>(buffer_.data());
  const auto pack = [&](ops::PackedWeight& to, Tensor w) {
    to.data = at;
    at += aligned(ops.packed_bytes(backend, w.dtype, w.rows, w.cols));
    ops.pack_weight(backend, &to, w);
  };
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerWeights& w = weights.layers[l];
    pack(layers_[l].qkv, w.qkv);
    pack(layers_[l].o, w.o);
    pack(layers_[l].gate_up, w.gate_up);
    pack(layers_[l].down, w.down);
  }
  pack(head_, weights.head);
}

}  // namespace rlhi
