// Element types and their exact conversions.
#pragma once
#include <cstdint>
#include <cstring>

namespace rlhi {

enum class DType : uint8_t { f32, bf16, f16, i32, u8 };

inline int64_t dtype_size(DType t) { return t == DType::f32 || t == DType::i32 ? 4 : t == DType::u8 ? 1 : 2; }
const char* dtype_name(DType t);  // "f32", "bf16", ...

// A bfloat16 is the upper half of a float32.
struct bf16 {
  uint16_t bits;
};

inline float to_float(bf16 x) {
  const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline float to_float(float x) { return x; }

// Round to nearest, ties to even; NaN stays NaN.
inline bf16 to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// The split master: a float32 is exactly (bf16 weight, 16-bit signed remainder), bits = (weight << 16) + remainder.
// The weight rounds half up in magnitude, so that the remainder always fits in 16 bits.
inline void split_master(float f, bf16& weight, int16_t& remainder) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  weight.bits = static_cast<uint16_t>((u + 0x8000u) >> 16);
  remainder = static_cast<int16_t>(u - (static_cast<uint32_t>(weight.bits) << 16));
}
inline float join_master(bf16 weight, int16_t remainder) {
  const uint32_t u = (static_cast<uint32_t>(weight.bits) << 16) + static_cast<uint32_t>(static_cast<int32_t>(remainder));
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

}  // namespace rlhi
