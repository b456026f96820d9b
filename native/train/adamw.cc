#include "train/adamw.h"

#include <cmath>

namespace rlhi {

AdamW::AdamW(Weights& weights, const ops::Table& ops, ops::Backend* backend) : weights_(weights), ops_(ops), backend_(backend) {
  const auto n = static_cast<size_t>(weights.elements());
  first_moment_ = DeviceBuffer(ops, backend, n * sizeof(float), "the first moments");
  second_moment_ = DeviceBuffer(ops, backend, n * sizeof(float), "the second moments");
  if (weights.dtype() == DType::bf16) remainder_ = DeviceBuffer(ops, backend, n * sizeof(int16_t), "the master weights' remainder");
  for (const NamedParameter& p : weights.parameters) {
    const int64_t end = p.offset + p.view.size();
    if (!runs_.empty() && runs_.back().decays == p.is_matrix && runs_.back().end <= p.offset) runs_.back().end = end;
    else runs_.push_back({p.offset, end, p.is_matrix});
  }
}

void AdamW::update(const Weights& gradients, const Step& step) {
  ops::AdamWArgs args;
  args.dtype = weights_.dtype();
  args.grad_scale = static_cast<float>(step.grad_scale);
  args.lr = step.lr, args.beta1 = step.beta1, args.beta2 = step.beta2, args.eps = step.eps;
  args.bias_correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.number));
  args.bias_correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.number));
  for (const Run& run : runs_) {
    args.n = run.end - run.begin;
    args.weight = static_cast<char*>(weights_.data()) + run.begin * dtype_size(weights_.dtype());
    args.remainder = remainder_.data() ? remainder() + run.begin : nullptr;
    args.grad = static_cast<const float*>(gradients.data()) + run.begin;
    args.m = first_moment() + run.begin, args.v = second_moment() + run.begin;
    args.weight_decay = run.decays ? step.weight_decay : 0;
    ops_.adamw(backend_, args);
  }
}

}  // namespace rlhi
