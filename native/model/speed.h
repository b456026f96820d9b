// How long the parts of a model take on this machine's CPU or a GPU, on random numbers: products alone, and a layer as training runs it.
#pragma once
#include <vector>

#include "model/config.h"
#include "ops/device.h"

namespace rlhi {

// One product, as ops.h defines its forms.
struct ProductShape {
  ops::GemmForm form = ops::GemmForm::nt;
  int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::f32;      // of both factors
  DType out = DType::f32;
  bool accumulate = false;       // out f32
  bool packed = false;           // nt: the weight is packed beforehand, as for generation
};

// Seconds of each of `repeats` products, after one that is not counted. On a GPU, which packs nothing, `packed` makes no difference.
std::vector<double> product_seconds(const ProductShape& shape, const ops::DeviceOptions& device, int64_t repeats);

struct LayerSpeed {
  std::vector<double> forward_seconds, backward_seconds;  // of each repetition
  double gradient_norm = 0;      // of the layer's matrices: the same for every number of threads and of repetitions
};

// The first layer of `config` on one micro-batch of `trees` prompts with two answers each (what the pairs of a training are),
// forward and backward, nothing computed again; weights and gradients of that layer alone. Throws invalid_argument where a tree is
// longer than the context, and out_of_memory.
LayerSpeed layer_speed(const ModelConfig& config, DType dtype, int64_t trees, int64_t prompt, int64_t answer,
                       const ops::DeviceOptions& device, int64_t repeats);

}  // namespace rlhi
