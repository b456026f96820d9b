// Standard normal numbers to measure with: with zeros a processor draws less power and may run faster than it ever does at work.
#pragma once
#include <algorithm>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"
#include "ops/ops.h"

namespace rlhi::ops {

// As many as it takes: one block of them over and over, its length prime, so that no two rows are alike.
class RandomBlock {
 public:
  RandomBlock(const Table& ops, Backend* backend) : ops_(ops), backend_(backend), floats_(kNumbers), halves_(kNumbers) {
    for (size_t i = 0; i < kNumbers; ++i) {
      floats_[i] = normal_pair(philox(1, 0, i / 2))[i % 2];
      halves_[i] = to_bf16(floats_[i]);
    }
  }
  // t is contiguous.
  void fill(const Tensor& t) const {
    const void* from = t.dtype == DType::f32 ? static_cast<const void*>(floats_.data()) : halves_.data();
    for (int64_t at = 0; at < t.size(); at += kNumbers) {
      const int64_t bytes = std::min<int64_t>(kNumbers, t.size() - at) * dtype_size(t.dtype);
      ops_.upload(backend_, static_cast<char*>(t.data) + at * dtype_size(t.dtype), from, static_cast<size_t>(bytes));
    }
  }

 private:
  static constexpr int64_t kNumbers = 1'000'003;
  const Table& ops_;
  Backend* backend_;
  std::vector<float> floats_;
  std::vector<bf16> halves_;
};

}  // namespace rlhi::ops
