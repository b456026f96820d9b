// The weight of a logit when a token is drawn, one source for every backend: the same from the same bits wherever it is computed.
#pragma once
#include <bit>
#include <cstdint>

namespace rlhi::ops {

// exp(x) for x <= 0 to two units in the last place, 0 below -87. Without branches, so that a compiler vectorises the loops around it (it is
// compiled without contraction everywhere). Polynomial: Cephes' expf (Moshier).
constexpr float exp_nonpositive(float x) {
  const float kept = x < -87.0f ? -87.0f : x;
  const float shifted = kept * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer, in the low mantissa bits
  const float n = shifted - 12582912.0f;
  float r = kept - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127u) << 23);  // 2^n
  return x < -87.0f ? 0.0f : mantissa * scale;
}

// What logits' distances from the highest are multiplied by: finite and not zero, so that 0 and -inf stay what they are.
constexpr float inverse_temperature(double temperature) {
  constexpr float kLeast = 0x1p-126f, kMost = 0x1p127f;
  const double inverse = 1 / temperature;
  return inverse < static_cast<double>(kLeast) ? kLeast : inverse > static_cast<double>(kMost) ? kMost : static_cast<float>(inverse);
}

}  // namespace rlhi::ops
