#include "io/encoding.h"

#include <cstring>

#include "base/dtype.h"
#include "base/half.h"

namespace rlhi::io {
namespace {

constexpr int64_t kBlock = 32;

template <class T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float load_half(const uint8_t* from) { return half_to_float(load<uint16_t>(from)); }

void decode_q8_0(const uint8_t* block, float* to) {
  const float d = load_half(block);
  for (int i = 0; i < kBlock; ++i) to[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}
// Byte i of a 4-bit block holds number i (low half) and number i + 16 (high half).
void decode_q4_0(const uint8_t* block, float* to) {
  const float d = load_half(block);
  for (int i = 0; i < kBlock / 2; ++i) {
    to[i] = static_cast<float>((block[2 + i] & 15) - 8) * d;
    to[i + kBlock / 2] = static_cast<float>((block[2 + i] >> 4) - 8) * d;
  }
}
void decode_q4_1(const uint8_t* block, float* to) {
  const float d = load_half(block), m = load_half(block + 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    to[i] = static_cast<float>(block[4 + i] & 15) * d + m;
    to[i + kBlock / 2] = static_cast<float>(block[4 + i] >> 4) * d + m;
  }
}

}  // namespace

const char* encoding_name(Encoding encoding) {
  switch (encoding) {
    case Encoding::f32: return "F32";
    case Encoding::f16: return "F16";
    case Encoding::bf16: return "BF16";
    case Encoding::q8_0: return "Q8_0";
    case Encoding::q4_0: return "Q4_0";
    case Encoding::q4_1: return "Q4_1";
  }
  return "unknown";
}

int64_t encoding_block_elements(Encoding encoding) {
  return encoding == Encoding::f32 || encoding == Encoding::f16 || encoding == Encoding::bf16 ? 1 : kBlock;
}

int64_t encoding_block_bytes(Encoding encoding) {
  switch (encoding) {
    case Encoding::f32: return 4;
    case Encoding::f16: return 2;
    case Encoding::bf16: return 2;
    case Encoding::q8_0: return 2 + kBlock;
    case Encoding::q4_0: return 2 + kBlock / 2;
    case Encoding::q4_1: return 4 + kBlock / 2;
  }
  return 0;
}

void decode(Encoding encoding, const uint8_t* from, int64_t n, float* to) {
  const int64_t block_bytes = encoding_block_bytes(encoding);
  const int64_t blocks = n / encoding_block_elements(encoding);
  switch (encoding) {
    case Encoding::f32:
      if (n > 0) std::memcpy(to, from, static_cast<size_t>(n) * 4);
      return;
    case Encoding::f16:
      for (int64_t i = 0; i < n; ++i) to[i] = load_half(from + 2 * i);
      return;
    case Encoding::bf16:
      for (int64_t i = 0; i < n; ++i) to[i] = to_float(load<rlhi::bf16>(from + 2 * i));
      return;
    case Encoding::q8_0:
      for (int64_t i = 0; i < blocks; ++i) decode_q8_0(from + i * block_bytes, to + i * kBlock);
      return;
    case Encoding::q4_0:
      for (int64_t i = 0; i < blocks; ++i) decode_q4_0(from + i * block_bytes, to + i * kBlock);
      return;
    case Encoding::q4_1:
      for (int64_t i = 0; i < blocks; ++i) decode_q4_1(from + i * block_bytes, to + i * kBlock);
      return;
  }
}

}  // namespace rlhi::io
