// XXH64 (the published algorithm by Yann Collet), streaming, for fingerprints. Not cryptographic.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rlhi {

class Hash64 {
 public:
  explicit Hash64(uint64_t seed = 0);
  void add(const void* data, size_t bytes);
  // Length first, so that ("ab", "c") and ("a", "bc") differ.
  void add_text(const std::string& text);
  uint64_t digest() const;

 private:
  void stripe(const unsigned char* data);

  uint64_t seed_;
  std::array<uint64_t, 4> lanes_;
  std::array<unsigned char, 32> pending_{};
  uint64_t total_ = 0;
};

std::string to_hex(uint64_t value);  // 16 digits

}  // namespace rlhi
