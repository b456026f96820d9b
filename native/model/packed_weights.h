// A model's matrices in the backend's packed layout, for repeated nt products.
#pragma once
#include <vector>

#include "ops/device_buffer.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace rlhi {

struct LayerPacks {
  ops::PackedWeight qkv, o, gate_up, down;
};

class PackedWeights {
 public:
  PackedWeights(const Weights& weights, const ops::Table& ops, ops::Backend* backend);  // throws out_of_memory
  static size_t bytes(const ModelConfig& config, DType dtype, const ops::Table& ops, ops::Backend* backend);

  const LayerPacks& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  const ops::PackedWeight& head() const { return head_; }

 private:
  DeviceBuffer buffer_;
  std::vector<LayerPacks> layers_;
  ops::PackedWeight head_;
};

}  // namespace rlhi
