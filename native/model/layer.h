// One transformer layer, forward and backward.
#pragma once
#include "model/activations.h"
#include "model/packed_weights.h"

namespace rlhi {

// What all layers of one pass share.
struct LayerPass {
  const ops::Table& ops;
  ops::Backend* backend;
  const ModelConfig& config;
  const PackedTokens& tokens;
  Tensor rope;                           // cos_sin table, [positions, K] f32
  // Set for a cached forward: new keys and values go to these rows of the cache, and spans name rows of it.
  const KvCache* cache = nullptr;
  const int32_t* cache_rows = nullptr;
  // Of a backward: matrices' gradients are added to what is there; else written (those of vectors are always added).
  bool accumulate = true;
};

// x (work.x) += attention and MLP of layer `index`. `a` holds exactly the pass's tokens; tensors of it that are empty are
// not kept. `packs` may be null.
void layer_forward(const LayerPass& pass, int64_t index, const LayerWeights& w, const LayerPacks* packs, const LayerActivations& a,
                   const WorkTensors& work);
// A forward's tensors once more, all that the backward reads, from a.input.
void layer_recompute(const LayerPass& pass, int64_t index, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work);
// work.x: the gradient of the layer's output on entry, of its input on return; `gradients` are f32.
// a.gate_up is overwritten.
void layer_backward(const LayerPass& pass, int64_t index, const LayerWeights& w, const LayerActivations& a, const WorkTensors& work,
                    const LayerWeights& gradients);

}  // namespace rlhi
