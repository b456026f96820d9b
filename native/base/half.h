// IEEE 754 binary16, which files hold and nothing here computes in.
#pragma once
#include <cstdint>
#include <cstring>

namespace rlhi {

// Exact: every binary16 value, subnormals, infinities and NaN payloads included, is a float32.
inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  uint32_t u;
  float f;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    f = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&u, &f, 4);
    u |= sign;
  } else if (exponent == 31) {
    u = sign | 0x7f800000u | (mantissa << 13);
  } else {
    u = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  }
  std::memcpy(&f, &u, 4);
  return f;
}

}  // namespace rlhi
