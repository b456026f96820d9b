// The rotary embedding's table, with the arithmetic of transformers' modeling_rope_utils step by step: a difference in
// the last bit of an inverse frequency is a thousand times larger at position 32,000.
#include <cmath>

#include "base/error.h"
#include "model/config.h"
#include "model/rope_frequencies.h"

namespace rlhi {

std::vector<float> standard_frequencies(double theta, int64_t head_dim) {
  const float base = static_cast<float>(theta);
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float power = static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
    frequencies[i] = 1.0f / power;
  }
  return frequencies;
}

// Llama 3.1: low frequencies are divided by `factor`, high ones kept, and a ramp lies between.
float llama3_frequency(float frequency, const RopeConfig& rope) {
  constexpr double kPi = 3.14159265358979323846;
  const double context = static_cast<double>(rope.original_max_position);
  const float low_wavelength = static_cast<float>(context / rope.low_freq_factor);
  const float high_wavelength = static_cast<float>(context / rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2 * kPi) / frequency;
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth = (static_cast<float>(context) / wavelength - static_cast<float>(rope.low_freq_factor)) /
                       static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies = standard_frequencies(config.rope.theta, config.head_dim);
  for (float& frequency : frequencies) {
    if (config.rope.type == RopeType::linear) frequency /= static_cast<float>(config.rope.factor);
    if (config.rope.type == RopeType::llama3) frequency = llama3_frequency(frequency, config.rope);
  }
  return frequencies;
}

std::vector<float> rope_table(const ModelConfig& config, int64_t positions) {
  check(positions >= 0, ErrorCode::invalid_argument, "a table for ", positions, " positions");
  const std::vector<float> frequencies = rope_frequencies(config);
  const size_t half = frequencies.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * half);
  for (int64_t p = 0; p < positions; ++p) {
    float* row = table.data() + static_cast<size_t>(p) * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];  // rounded to f32, as there
      row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

}  // namespace rlhi
