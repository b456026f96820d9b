// How long each operation of ops.h takes at a model's shapes.
#pragma once
#include <string>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"
#include "ops/device.h"

namespace rlhi {

struct OperationSpeed {
  std::string operation;         // of ops.h
  std::string part;              // of the model
  std::string shape;
  double seconds = 0;            // median
  double flops = 0, bytes = 0;   // that it needs at least (ops/operation_cost.h)
};

// Every operation of the table as training with `tokens` rows calls it (pairs of about 512 rows, half of them the prompt's; the head on half the
// rows), `repeats` times or, if that takes less, for 50 ms. Throws out_of_memory; the largest tensor is the head's gradient, f32.
std::vector<OperationSpeed> operation_speeds(const ModelConfig& config, DType dtype, int64_t tokens, const ops::DeviceOptions& device,
                                             int64_t repeats);

}  // namespace rlhi
