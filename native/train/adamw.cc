#include "train/adamw.h"

#include <cmath>

namespace rlhi {

AdamW::AdamW(Weights& weights, DType moments, const ops::Table& ops, ops::Backend* backend)
    : weights_(weights), moments_(moments), ops_(ops), backend_(backend) {
  const auto n = static_cast<size_t>(weights.elements()), moment_bytes = n * static_cast<size_t>(dtype_size(moments));
  first_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the first moments");
  second_moment_ = DeviceBuffer(ops, backend, moment_bytes, "the second moments");
  if (weights.dtype() == DType::bf16) remainder_ = DeviceBuffer(ops, backend, n * sizeof(int16_t), "the master weights' remainder");
  for (const NamedParameter& p : weights.parameters) {
    const int64_t end = p.offset + p.view.size();
    if (!runs_.empty() && runs_.back().decays == p.is_matrix && runs_.back().end <= p.offset) runs_.back().end = end;
    else runs_.push_back({p.offset, end, p.is_matrix});
  }
}

void AdamW::update(const Weights& gradients, const Step& step) {
  ops::AdamWArgs args;
  args.dtype = weights_.dtype(), args.moments = moments_;
  args.rounding_seed = static_cast<uint32_t>(step.number);
  args.grad_scale = static_cast<float>(step.grad_scale);
  args.lr = step.lr, args.beta1 = step.beta1, args.beta2 = step.beta2, args.eps = step.eps;
  args.bias_correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.number));
  args.bias_correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.number));
  for (const Run& run : runs_) {
    args.n = run.end - run.begin;
    const auto at_run = [&](void* data, DType dtype) { return static_cast<char*>(data) + run.begin * dtype_size(dtype); };
    args.first_element = run.begin;
    args.weight = at_run(weights_.data(), weights_.dtype());
    args.remainder = remainder_.data() ? remainder() + run.begin : nullptr;
    args.grad = static_cast<const float*>(gradients.data()) + run.begin;
    args.m = at_run(first_moment(), moments_), args.v = at_run(second_moment(), moments_);
    args.weight_decay = run.decays ? step.weight_decay : 0;
    ops_.adamw(backend_, args);
  }
}

}  // namespace rlhi
