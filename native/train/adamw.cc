#include "train/adamw.h"

#include <cmath>

namespace rlhi {

AdamW::AdamW(Weights& weights, DType moments, const ops::Table& ops, ops::Backend* backend)
    : weights_(weights), moments_(moments), ops_(ops), backend_(backend) {
  const auto n = static_cast<size_t>(weights.elements()), moment_bytes = n * static_cast<size_t>(dtype_size(moments));
  first_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the first moments");
  second_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the second moments");
  if (weights.dtype() == DType::bf16) remainder_ = DeviceBuffer(ops, backend, n * sizeof(int16_t), "the master weights' remainder");
}

void AdamW::update(const Weights& gradients, const Step& step) {
  ops::AdamWArgs args;
  args.dtype = weights_.dtype(), args.moments = moments_;
  args.rounding_seed = static_cast<uint32_t>(step.number);
  args.grad_scale = static_cast<float>(step.grad_scale);
  args.lr = step.lr, args.beta1 = step.beta1, args.beta2 = step.beta2, args.eps = step.eps;
  args.bias_correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.number));
  args.bias_correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.number));
  const auto update_all = [&](const Tensor& weights, const Tensor& gradient, int64_t first, double weight_decay) {
    const auto from_first = [&](void* data) { return static_cast<char*>(data) + first * dtype_size(moments_); };
    args.n = weights.size(), args.first_element = first;
    args.weight = weights.data;
    args.remainder = remainder_.data() ? remainder() + first : nullptr;
    args.grad = gradient.data, args.grad_dtype = gradient.dtype;
    args.m = from_first(first_moment()), args.v = from_first(second_moment());
    args.weight_decay = weight_decay;
    ops_.adamw(backend_, args);
  };
  update_all(weights_.matrices(), gradients.matrices(), 0, step.weight_decay);
  update_all(weights_.vectors(), gradients.vectors(), weights_.matrices().size(), 0);
}

}  // namespace rlhi
