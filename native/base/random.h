// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// A number is a pure function of (seed, stream, index), so threads, order and batching cannot change it.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace rlhi {

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox(PhiloxBlock counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Block `index` of stream `stream` (four 32-bit words).
inline PhiloxBlock philox(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox(PhiloxBlock{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(stream),
                            static_cast<uint32_t>(stream >> 32)},
                seed);
}

// [0, 1), with 24 and with 53 bits; each multiple of 2^-24 (2^-53) equally likely.
inline float uniform_float(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }
inline double uniform_double(uint32_t high, uint32_t low) {
  return static_cast<double>(((static_cast<uint64_t>(high) << 32) | low) >> 11) * 0x1p-53;
}

// Two independent standard normal numbers of one block (Box-Muller).
inline std::array<float, 2> normal_pair(const PhiloxBlock& block) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform_double(block[0], block[1])));  // the argument is in (0, 1]
  const double angle = kTwoPi * uniform_double(block[2], block[3]);
  return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

// Numbers one after the other of one stream.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint32_t next() {
    if (used_ == 4) {
      block_ = philox(seed_, stream_, index_++);
      used_ = 0;
    }
    return block_[used_++];
  }
  float uniform() { return uniform_float(next()); }
  double uniform53() {
    const uint32_t high = next();
    return uniform_double(high, next());
  }

 private:
  uint64_t seed_, stream_, index_ = 0;
  PhiloxBlock block_{};
  unsigned used_ = 4;
};

}  // namespace rlhi
