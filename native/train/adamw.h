// AdamW's state and its step over all parameters of a model.
#pragma once
#include <cstdint>

#include "ops/device_buffer.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace rlhi {

int64_t moment_scales(int64_t elements);  // of coded moments, of all parameters

// Loshchilov & Hutter 2019, arXiv 1711.05101, as torch.optim.AdamW: decay first, scaled by the learning rate, on matrices
// (embeddings included) only. A bf16 weight carries a 16-bit remainder; together they are the f32 master (base/dtype.h).
class AdamW {
 public:
  // The moments themselves lie in host memory where that is asked for, their scales on the device. Throws out_of_memory.
  AdamW(Weights& weights, ops::Moments moments, bool moments_on_host, const ops::Table& ops, ops::Backend* backend);

  struct Step {
    int64_t number = 1;          // 1 for the first: the power in the bias corrections
    double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
    const float* grad_scale = nullptr;  // the clipping factor, in backend memory
  };
  void update(const Weights& gradients, const Step& step);  // the zeros between parameters stay zero

  ops::Moments moments() const { return moments_; }
  // One value an element of the parameter storage, in memory that upload and download take.
  void* first_moment() const { return moments_on_host_ ? host_first_moment_.data() : first_moment_.data(); }
  void* second_moment() const { return moments_on_host_ ? host_second_moment_.data() : second_moment_.data(); }
  // Scales of coded moments, else empty: [1, blocks of the matrices, then of the vectors].
  Tensor first_scales() const { return scales(first_scales_); }
  Tensor second_scales() const { return scales(second_scales_); }
  int16_t* remainder() const { return static_cast<int16_t*>(remainder_.data()); }  // null for f32 weights

 private:
  int64_t scale_count() const;
  Tensor scales(const DeviceBuffer& buffer) const { return buffer.data() ? Tensor(buffer.data(), DType::f32, 1, scale_count()) : Tensor(); }

  Weights& weights_;
  ops::Moments moments_;
  bool moments_on_host_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  DeviceBuffer first_moment_, second_moment_, first_scales_, second_scales_, remainder_;
  HostBuffer host_first_moment_, host_second_moment_;
};

}  // namespace rlhi
