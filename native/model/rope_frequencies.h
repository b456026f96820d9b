// Inverse frequencies of the rotary embedding, in f32 as transformers has them. [head_dim / 2] each.
#pragma once
#include <vector>

#include "model/config.h"

namespace rlhi {

std::vector<float> standard_frequencies(double theta, int64_t head_dim);      // theta^(-2i / head_dim)
float llama3_frequency(float frequency, const RopeConfig& rope);              // one of them, scaled
std::vector<float> rope_frequencies(const ModelConfig& config);               // with the configuration's scaling

}  // namespace rlhi
