// AdamW's state and its step over all parameters of a model.
#pragma once
#include <cstdint>

#include "model/device_buffer.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace rlhi {

// Loshchilov & Hutter 2019, arXiv 1711.05101, as torch.optim.AdamW: decay first, scaled by the learning rate, on matrices
// (embeddings included) only. A bf16 weight carries a 16-bit remainder; together they are the f32 master (base/dtype.h).
class AdamW {
 public:
  // moments: f32 or bf16 (rounded at random, so that what decays slowly does decay). Throws out_of_memory.
  AdamW(Weights& weights, DType moments, const ops::Table& ops, ops::Backend* backend);

  struct Step {
    int64_t number = 1;          // 1 for the first: the power in the bias corrections
    double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    double grad_scale = 1;       // the clipping factor
  };
  void update(const Weights& gradients, const Step& step);  // the zeros between parameters stay zero

  DType moments() const { return moments_; }
  // One value an element of the parameter storage.
  void* first_moment() const { return first_moment_.data(); }
  void* second_moment() const { return second_moment_.data(); }
  int16_t* remainder() const { return static_cast<int16_t*>(remainder_.data()); }  // null for f32 weights

 private:
  Weights& weights_;
  DType moments_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  DeviceBuffer first_moment_, second_moment_, remainder_;
};

}  // namespace rlhi
