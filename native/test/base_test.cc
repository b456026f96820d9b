// Random numbers, hashes, binary16, files that appear whole, and the machine's memory.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <limits>

#include "base/atomic_file.h"
#include "base/dtype.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/random.h"
#include "base/system.h"
#include "test/check.h"
#include "test/op_table/pairwise.h"
#include "test/temp_dir.h"

namespace rlhi::test {
namespace {

TEST("random: Philox 4x32-10 gives the published vectors") {
  const PhiloxBlock zero = philox(PhiloxBlock{0, 0, 0, 0}, 0);
  EXPECT(zero == (PhiloxBlock{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const PhiloxBlock ones = philox(PhiloxBlock{~0u, ~0u, ~0u, ~0u}, ~uint64_t{0});
  EXPECT(ones == (PhiloxBlock{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  const PhiloxBlock pi = philox(PhiloxBlock{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822u);
  EXPECT(pi == (PhiloxBlock{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST("random: uniform numbers stay in [0, 1) and normal ones have mean 0 and variance 1") {
  EXPECT_EQ(uniform_float(0), 0.0f);
  EXPECT(uniform_float(~0u) < 1.0f);
  EXPECT(uniform_double(~0u, ~0u) < 1.0);
  double sum = 0, squares = 0, fourth = 0;
  constexpr int kPairs = 100000;
  for (int i = 0; i < kPairs; ++i) {
    for (const float x : normal_pair(philox(7, 3, static_cast<uint64_t>(i)))) {
      sum += x;
      squares += static_cast<double>(x) * x;
      fourth += static_cast<double>(x) * x * x * x;
    }
  }
  EXPECT_NEAR(sum / (2 * kPairs), 0, 0.01);
  EXPECT_NEAR(squares / (2 * kPairs), 1, 0.02);
  EXPECT_NEAR(fourth / (2 * kPairs), 3, 0.15);
  EXPECT(std::isfinite(normal_pair(PhiloxBlock{~0u, ~0u, 0, 0})[0]));  // the uniform number next to 1
}

TEST("random: a stream is a function of seed and stream number") {
  RandomStream a(5, 1), b(5, 1), other_stream(5, 2), other_seed(6, 1);
  bool differs_by_stream = false, differs_by_seed = false;
  for (int i = 0; i < 100; ++i) {
    const uint32_t x = a.next();
    EXPECT_EQ(x, b.next());
    differs_by_stream |= x != other_stream.next();
    differs_by_seed |= x != other_seed.next();
  }
  EXPECT(differs_by_stream && differs_by_seed);
}

TEST("hash: XXH64's published values, whole and in pieces") {
  EXPECT_EQ(to_hex(Hash64().digest()), "ef46db3751d8e999");
  const std::string text = "Nobody inspects the spammish repetition";  // 39 bytes: one stripe and a tail of each kind
  Hash64 whole;
  whole.add(text.data(), text.size());
  EXPECT_EQ(to_hex(whole.digest()), "fbcea83c8a378bf1");
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Hash64 pieces;
    pieces.add(text.data(), cut);
    pieces.add(text.data() + cut, text.size() - cut);
    EXPECT_EQ(pieces.digest(), whole.digest());
  }
}

TEST("dtype: every binary16 value widens exactly") {
  EXPECT_EQ(half_to_float(0x3c00), 1.0f);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(half_to_float(0x83ff), -1023.0f * 0x1p-24f);
  EXPECT_EQ(half_to_float(0x7bff), 65504.0f);
  EXPECT(std::isinf(half_to_float(0xfc00)) && half_to_float(0xfc00) < 0);
  EXPECT(std::isnan(half_to_float(0x7e01)));
  EXPECT(std::signbit(half_to_float(0x8000)));
  for (uint32_t h = 0; h < 0x7c00; ++h) {  // finite and positive: against the definition
    const int exponent = static_cast<int>(h >> 10);
    const double mantissa = h & 0x3ff;
    const double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(static_cast<double>(half_to_float(static_cast<uint16_t>(h))), expected);
  }
}

TEST("dtype: bf16 rounds to nearest even, and the split master is exact") {
  EXPECT_EQ(to_bf16(1.0f + 0x1p-8f).bits, to_bf16(1.0f).bits);                        // a tie goes to the even one below
  EXPECT_EQ(to_bf16(1.0f + 3 * 0x1p-8f).bits, to_bf16(1.0f + 4 * 0x1p-8f).bits);      // a tie goes to the even one above
  EXPECT_EQ(to_bf16(std::nextafter(1.0f + 0x1p-8f, 2.0f)).bits, to_bf16(1.0f + 0x1p-7f).bits);
  EXPECT(std::isnan(to_float(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  RandomStream random(1);
  for (int i = 0; i < 100000; ++i) {
    const uint32_t bits = random.next() & 0xff7fffffu;  // an exponent that is not all ones: finite
    float f;
    std::memcpy(&f, &bits, 4);
    bf16 weight{};
    int16_t remainder = 0;
    split_master(f, weight, remainder);
    const float joined = join_master(weight, remainder);
    EXPECT(std::memcmp(&joined, &f, 4) == 0);
  }
}

TEST("files: an atomic file appears only when committed, and replaces the old one") {
  const TempDir dir;
  const std::string path = dir.file("out.bin");
  write_bytes(path, "old");
  {
    AtomicFile abandoned(path);
    abandoned.write("half", 4);
  }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(dir.entries(), 1u);
  const std::string large(3'000'001, 'x');  // larger than the buffer
  AtomicFile file(path);
  file.write("ab", 2);
  file.write(large.data(), large.size());
  file.commit();
  EXPECT_EQ(file.written(), large.size() + 2);
  EXPECT(read_bytes(path) == "ab" + large);
  EXPECT_EQ(dir.entries(), 1u);
}

TEST("files: a write the system refuses is an io error that leaves nothing behind") {
  const TempDir dir;
  EXPECT_ERROR(AtomicFile(dir.file("absent/out")), ErrorCode::io, "No such file or directory");
  // A file-size limit is the one way to a failing write that needs no rights: it stands for a full disk.
  struct rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = old;
  small.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    const std::string data(4 << 20, 'x');
    AtomicFile file(dir.file("big"));
    file.write(data.data(), data.size());
    file.commit();
  } catch (const Error& e) {
    message = e.code() == ErrorCode::io ? e.what() : "another code";
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT(message.find("File too large") != std::string::npos && message.find("big") != std::string::npos);
  EXPECT_EQ(dir.entries(), 0u);
}

TEST("files: mapping names what cannot be opened; an empty file has size 0") {
  const TempDir dir;
  EXPECT_ERROR(MappedFile(dir.file("absent")), ErrorCode::io, "absent: cannot open: No such file");
  EXPECT_ERROR(MappedFile(dir.path()), ErrorCode::io, "not a regular file");
  write_bytes(dir.file("empty"), "");
  EXPECT_EQ(MappedFile(dir.file("empty")).size(), 0u);
  write_bytes(dir.file("three"), "abc");
  const MappedFile three(dir.file("three"));
  EXPECT(three.size() == 3 && three.data()[2] == 'c');
}

TEST("system: memory that is available is part of the memory there is") {
  const int64_t available = available_memory_bytes(), total = total_memory_bytes();
  EXPECT(available > (int64_t{1} << 24));
  EXPECT(available <= total);
  EXPECT(peak_resident_bytes() > 1 << 20);
}

TEST("pairwise: any two choices come together, in fewer combinations than there are, and none costs more than allowed") {
  const std::vector<std::vector<int64_t>> choices{{1, 2, 3, 4, 5}, {1, 10, 100}, {0, 1}, {0, 1}};
  const auto cost = [](const Combination& c) { return static_cast<double>(c[0] * c[1]); };
  for (const double limit : {1e9, 250.0}) {
    const std::vector<Combination> all = pairwise(choices, cost, limit);
    EXPECT(all.size() < 24);
    for (const Combination& c : all) EXPECT(cost(c) <= limit);
    for (size_t d = 0; d < choices.size(); ++d) {
      for (size_t e = d + 1; e < choices.size(); ++e) {
        for (const int64_t x : choices[d]) {
          for (const int64_t y : choices[e]) {
            const bool together = std::any_of(all.begin(), all.end(), [&](const Combination& c) { return c[d] == x && c[e] == y; });
            EXPECT_EQ(together, !(d == 0 && e == 1 && static_cast<double>(x * y) > limit));
          }
        }
      }
    }
  }
  EXPECT(around({4}) == std::vector<int64_t>({1, 2, 3, 4, 5, 7, 8, 9}));
}

}  // namespace
}  // namespace rlhi::test
