#include "train/adamw.h"

#include <cmath>

namespace rlhi {

int64_t moment_scales(int64_t elements) { return (elements + ops::kMomentBlock - 1) / ops::kMomentBlock; }

AdamW::AdamW(Weights& weights, ops::Moments moments, bool moments_on_host, const ops::Table& ops, ops::Backend* backend)
    : weights_(weights), moments_(moments), moments_on_host_(moments_on_host), ops_(ops), backend_(backend) {
  const auto n = static_cast<size_t>(weights.elements()), moment_bytes = n * static_cast<size_t>(moment_size(moments));
  if (moments_on_host) {
    host_first_moment_ = HostBuffer(ops, backend, moment_bytes, "the first moments in host memory");
    host_second_moment_ = HostBuffer(ops, backend, moment_bytes, "the second moments in host memory");
  } else {
    first_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the first moments");
    second_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the second moments");
  }
  if (moments == ops::Moments::coded) {
    const size_t scale_bytes = static_cast<size_t>(scale_count()) * sizeof(float);
    first_scales_ = DeviceBuffer(ops, backend, scale_bytes, "the first moments' scales");
    second_scales_ = DeviceBuffer(ops, backend, scale_bytes, "the second moments' scales");
  }
  if (weights.dtype() == DType::bf16) remainder_ = DeviceBuffer(ops, backend, n * sizeof(int16_t), "the master weights' remainder");
}

int64_t AdamW::scale_count() const { return moment_scales(weights_.elements()); }

void AdamW::update(const Weights& gradients, const Step& step) {
  ops::AdamWArgs args;
  args.dtype = weights_.dtype(), args.moments = moments_, args.moments_on_host = moments_on_host_;
  args.rounding_seed = static_cast<uint32_t>(step.number);
  args.grad_scale = step.grad_scale;
  args.lr = step.lr, args.beta1 = step.beta1, args.beta2 = step.beta2, args.eps = step.eps;
  args.bias_correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.number));
  args.bias_correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.number));
  const auto update_all = [&](const Tensor& weights, const Tensor& gradient, int64_t first, double weight_decay) {
    const auto from_first = [&](void* data) { return static_cast<char*>(data) + first * moment_size(moments_); };
    const auto scales_from_first = [&](const DeviceBuffer& scales) {
      return scales.data() ? static_cast<float*>(scales.data()) + first / ops::kMomentBlock : nullptr;
    };
    args.n = weights.size(), args.first_element = first;
    args.weight = weights.data;
    args.remainder = remainder_.data() ? remainder() + first : nullptr;
    args.grad = gradient.data, args.grad_dtype = gradient.dtype;
    args.m = from_first(first_moment()), args.v = from_first(second_moment());
    args.m_scales = scales_from_first(first_scales_), args.v_scales = scales_from_first(second_scales_);
    args.weight_decay = weight_decay;
    ops_.adamw(backend_, args);
  };
  update_all(weights_.matrices(), gradients.matrices(), 0, step.weight_decay);
  update_all(weights_.vectors(), gradients.vectors(), weights_.matrices().size(), 0);
}

}  // namespace rlhi
