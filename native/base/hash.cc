#include "base/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace rlhi {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u, kPrime2 = 0xC2B2AE3D27D4EB4Fu, kPrime3 = 0x165667B19E3779F9u,
                   kPrime4 = 0x85EBCA77C2B2AE63u, kPrime5 = 0x27D4EB2F165667C5u;

template <class T>
T load(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

uint64_t round(uint64_t lane, uint64_t input) { return std::rotl(lane + input * kPrime2, 31) * kPrime1; }

}  // namespace

Hash64::Hash64(uint64_t seed) : seed_(seed), lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1} {}

void Hash64::stripe(const unsigned char* data) {
  for (size_t i = 0; i < 4; ++i) lanes_[i] = round(lanes_[i], load<uint64_t>(data + 8 * i));
}

void Hash64::add(const void* data, size_t bytes) {
  const unsigned char* from = static_cast<const unsigned char*>(data);
  const size_t held = static_cast<size_t>(total_ % 32);
  total_ += bytes;
  if (held > 0) {
    const size_t take = std::min(bytes, 32 - held);
    std::memcpy(pending_.data() + held, from, take);
    from += take;
    bytes -= take;
    if (held + take < 32) return;
    stripe(pending_.data());
  }
  for (; bytes >= 32; from += 32, bytes -= 32) stripe(from);
  if (bytes > 0) std::memcpy(pending_.data(), from, bytes);
}

void Hash64::add_text(const std::string& text) {
  const uint64_t length = text.size();
  add(&length, sizeof length);
  add(text.data(), text.size());
}

uint64_t Hash64::digest() const {
  uint64_t h = seed_ + kPrime5;
  if (total_ >= 32) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) h = (h ^ round(0, lane)) * kPrime1 + kPrime4;
  }
  h += total_;
  const unsigned char* from = pending_.data();
  size_t left = static_cast<size_t>(total_ % 32);
  for (; left >= 8; from += 8, left -= 8) h = std::rotl(h ^ round(0, load<uint64_t>(from)), 27) * kPrime1 + kPrime4;
  for (; left >= 4; from += 4, left -= 4) h = std::rotl(h ^ (load<uint32_t>(from) * kPrime1), 23) * kPrime2 + kPrime3;
  for (; left > 0; ++from, --left) h = std::rotl(h ^ (*from * kPrime5), 11) * kPrime1;
  h = (h ^ (h >> 33)) * kPrime2;
  h = (h ^ (h >> 29)) * kPrime3;
  return h ^ (h >> 32);
}

std::string to_hex(uint64_t value) {
  std::string text(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

}  // namespace rlhi
