// Reading GGUF: metadata of every type, tensors, quantised blocks, torn and malformed files.
#include <cstring>

#include "io/gguf.h"
#include "test/check.h"
#include "test/gguf_builder.h"

namespace rlhi::test {
namespace {

using io::GgufFile;
using io::GgufType;

GgufBuilder sample() {
  GgufBuilder b;
  b.text("general.architecture", "llama").u32("a.u32", 7).f32("a.f32", 0.5f);
  b.key("a.u8", 0, bytes_of<uint8_t>(200)).key("a.i8", 1, bytes_of<int8_t>(-3)).key("a.u16", 2, bytes_of<uint16_t>(60000));
  b.key("a.i16", 3, bytes_of<int16_t>(-300)).key("a.i32", 5, bytes_of<int32_t>(-70000)).key("a.bool", 7, bytes_of<uint8_t>(1));
  b.key("a.u64", 10, bytes_of<uint64_t>(~uint64_t{0})).key("a.i64", 11, bytes_of<int64_t>(-5)).key("a.f64", 12, bytes_of<double>(0.1));
  b.key("l.text", 9, bytes_of<uint32_t>(8) + bytes_of<uint64_t>(2) + gguf_text("x") + gguf_text(""));
  b.key("l.i32", 9, bytes_of<uint32_t>(5) + bytes_of<uint64_t>(2) + bytes_of<int32_t>(1) + bytes_of<int32_t>(-1));
  b.key("l.f32", 9, bytes_of<uint32_t>(6) + bytes_of<uint64_t>(1) + bytes_of<float>(2.5f));
  b.key("l.bool", 9, bytes_of<uint32_t>(7) + bytes_of<uint64_t>(2) + std::string("\1\0", 2));
  b.key("l.u64", 9, bytes_of<uint32_t>(10) + bytes_of<uint64_t>(1) + bytes_of<uint64_t>(~uint64_t{0}));
  b.key("l.empty", 9, bytes_of<uint32_t>(8) + bytes_of<uint64_t>(0));
  b.key("l.nested", 9, bytes_of<uint32_t>(9) + bytes_of<uint64_t>(1) + bytes_of<uint32_t>(0) + bytes_of<uint64_t>(2) + "\1\2");
  b.floats("t.vector", {3}, {1, 2, 3}).floats("t.matrix", {2, 3}, {1, 2, 3, 4, 5, 6});
  return b;
}

std::string write(const TempDir& dir, const std::string& bytes) {
  write_bytes(dir.file("x.gguf"), bytes);
  return dir.file("x.gguf");
}

TEST("gguf: metadata of every type, in file order") {
  const TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder b = sample();
    b.version = version;
    const GgufFile file(write(dir, b.bytes()));
    EXPECT_EQ(file.metadata().size(), 19u);
    EXPECT_EQ(file.metadata()[1].first, "a.u32");
    EXPECT_EQ(file.integer("a.u8", 0), 200);
    EXPECT_EQ(file.integer("a.i8", 0), -3);
    EXPECT_EQ(file.integer("a.u16", 0), 60000);
    EXPECT_EQ(file.integer("a.i16", 0), -300);
    EXPECT_EQ(file.integer("a.u32", 0), 7);
    EXPECT_EQ(file.integer("a.i32", 0), -70000);
    EXPECT_EQ(file.integer("a.i64", 0), -5);
    EXPECT_EQ(*file.find("a.u64")->get<uint64_t>(), ~uint64_t{0});
    EXPECT_EQ(*file.find("a.bool")->get<bool>(), true);
    EXPECT_EQ(file.real("a.f32", 0), 0.5);
    EXPECT_EQ(file.real("a.f64", 0), 0.1);
    EXPECT_EQ(file.real("a.u32", 0), 7.0);
    EXPECT_EQ(file.text("general.architecture", ""), "llama");
    EXPECT_EQ(file.text("absent", "other"), "other");
    EXPECT(*file.find("l.text")->get<std::vector<std::string>>() == (std::vector<std::string>{"x", ""}));
    EXPECT(*file.find("l.i32")->get<std::vector<int64_t>>() == (std::vector<int64_t>{1, -1}));
    EXPECT(file.find("l.i32")->element == GgufType::i32);
    EXPECT(*file.find("l.f32")->get<std::vector<double>>() == std::vector<double>{2.5});
    EXPECT(*file.find("l.bool")->get<std::vector<int64_t>>() == (std::vector<int64_t>{1, 0}));
    EXPECT(*file.find("l.u64")->get<std::vector<uint64_t>>() == std::vector<uint64_t>{~uint64_t{0}});
    EXPECT(file.find("l.empty")->get<std::vector<std::string>>()->empty());
    const io::GgufValue& inner = file.find("l.nested")->get<std::vector<io::GgufValue>>()->at(0);
    EXPECT(*inner.get<std::vector<int64_t>>() == (std::vector<int64_t>{1, 2}));
    EXPECT_ERROR(file.integer("a.f32", 0), ErrorCode::invalid_file, "key a.f32 is not an integer");
    EXPECT_ERROR(file.text("a.u32", ""), ErrorCode::invalid_file, "key a.u32 is not a string");
    EXPECT_ERROR(file.integer("a.u64", 0), ErrorCode::invalid_file, "key a.u64 is not an integer");
  }
}

TEST("gguf: tensors with their shapes slowest first") {
  const TempDir dir;
  const GgufFile file(write(dir, sample().bytes()));
  const io::GgufTensor* matrix = file.find_tensor("t.matrix");
  EXPECT(matrix && matrix->shape == (std::vector<int64_t>{3, 2}) && matrix->bytes == 24);
  float values[6];
  io::decode(matrix->encoding, matrix->data, 6, values);
  EXPECT_EQ(values[5], 6.0f);
  EXPECT(file.find_tensor("t.vector")->shape == std::vector<int64_t>{3});
  EXPECT(file.find_tensor("absent") == nullptr);
}

TEST("gguf: general.alignment moves the data") {
  const TempDir dir;
  GgufBuilder b;
  b.alignment = 128;
  b.u32("general.alignment", 128).floats("a", {1}, {4}).floats("b", {1}, {5});
  const GgufFile file(write(dir, b.bytes()));
  float value = 0;
  io::decode(file.tensors()[1].encoding, file.tensors()[1].data, 1, &value);
  EXPECT_EQ(value, 5.0f);
}

TEST("gguf: a file cut off at any byte is invalid") {
  const TempDir dir;
  GgufBuilder b = sample();
  const std::string bytes = b.bytes();
  const size_t padding = 8;  // the last tensor's 24 bytes are padded to 32; a file may lack that
  for (size_t n = 0; n < bytes.size() - padding; ++n) {
    EXPECT_ERROR(GgufFile(write(dir, bytes.substr(0, n))), ErrorCode::invalid_file, n < 4 ? "cut off" : "");
  }
  EXPECT_EQ(GgufFile(write(dir, bytes.substr(0, bytes.size() - padding))).tensors().size(), 2u);
  EXPECT_ERROR(GgufFile(write(dir, bytes.substr(0, bytes.size() - padding - 1))), ErrorCode::invalid_file,
               "cut off: tensor t.matrix takes 24 bytes");
}

TEST("gguf: any single damaged byte of the header is an error or a valid file, never a crash") {
  const TempDir dir;
  const std::string bytes = sample().bytes();
  int refused = 0;
  for (size_t i = 0; i < bytes.size() - 64; ++i) {
    for (const char damage : {'\0', '\x09', '\xff'}) {
      std::string damaged = bytes;
      damaged[i] = damage;
      try {
        GgufFile file(write(dir, damaged));
      } catch (const Error& e) {
        EXPECT(e.code() == ErrorCode::invalid_file || e.code() == ErrorCode::unsupported);
        ++refused;
      }
    }
  }
  EXPECT(refused > 300);
}

TEST("gguf: what is not read is refused by name") {
  const TempDir dir;
  const auto expect = [&](const GgufBuilder& b, ErrorCode code, const char* part) {
    EXPECT_ERROR(GgufFile(write(dir, b.bytes())), code, part);
  };
  expect(GgufBuilder().tensor("blk.0.q", {256}, 12, std::string(144, 'x')), ErrorCode::unsupported, "tensor blk.0.q (its type at byte");
  expect(GgufBuilder().tensor("blk.0.q", {256}, 12, std::string(144, 'x')), ErrorCode::unsupported,
         "has type 12 Q4_K; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read");
  expect(GgufBuilder().tensor("t", {256}, 99, "x"), ErrorCode::unsupported, "has type 99");
  expect(GgufBuilder().tensor("t", {33}, 8, std::string(34, 'x')), ErrorCode::invalid_file,
         "rows of 33 numbers, Q8_0 needs a multiple of 32");
  expect(GgufBuilder().tensor("t", {1, 1, 1, 1, 1}, 0, "xxxx"), ErrorCode::invalid_file, "tensor t has 5 dimensions");
  expect(GgufBuilder().tensor("t", {0}, 0, "xxxx"), ErrorCode::invalid_file, "tensor t has an extent of 0");
  expect(GgufBuilder().tensor("t", {~uint64_t{0}, 8}, 0, "xxxx"), ErrorCode::invalid_file, "tensor t has an extent of");
  expect(GgufBuilder().tensor("t", {1}, 0, "xxxx").tensor("t", {1}, 0, "xxxx"), ErrorCode::invalid_file, "tensor t stands twice");
  expect(GgufBuilder().u32("k", 1).u32("k", 2), ErrorCode::invalid_file, "key k stands twice");
  expect(GgufBuilder().key("k", 13, "xxxx"), ErrorCode::invalid_file, "key k has value type 13");
  expect(GgufBuilder().key("k", 7, "\2"), ErrorCode::invalid_file, "key k is a boolean of value 2");
  expect(GgufBuilder().key("k", 9, bytes_of<uint32_t>(8) + bytes_of<uint64_t>(uint64_t{1} << 60)), ErrorCode::invalid_file,
         "key k would have");
  expect(GgufBuilder().u32("general.alignment", 3), ErrorCode::invalid_file, "general.alignment is 3");
  expect(GgufBuilder().key("split.count", 2, bytes_of<uint16_t>(3)), ErrorCode::unsupported, "one of 3 parts");
  GgufBuilder old;
  old.version = 1;
  expect(old, ErrorCode::unsupported, "GGUF version 1; 2 and 3 are read");
  GgufBuilder big_endian;
  big_endian.version = 3u << 24;
  expect(big_endian, ErrorCode::unsupported, "big-endian");
  EXPECT_ERROR(GgufFile(write(dir, "GGML" + std::string(40, '\0'))), ErrorCode::invalid_file, "not a GGUF file");
  std::string nested;
  for (int i = 0; i < 100; ++i) nested += bytes_of<uint32_t>(9) + bytes_of<uint64_t>(1);
  expect(GgufBuilder().key("k", 9, nested), ErrorCode::invalid_file, "nests arrays deeper");
}

TEST("gguf: quantised blocks decode by their definition, number by number") {
  uint8_t q8[34] = {0x00, 0x38};  // d = 0.5
  for (int i = 0; i < 32; ++i) q8[2 + i] = static_cast<uint8_t>(i * 8 - 128);
  float out[64];
  io::decode(io::Encoding::q8_0, q8, 32, out);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0.5f * static_cast<float>(i * 8 - 128));

  uint8_t q4[18] = {0x00, 0x34};  // d = 0.25
  for (int i = 0; i < 16; ++i) q4[2 + i] = static_cast<uint8_t>(i | ((15 - i) << 4));
  io::decode(io::Encoding::q4_0, q4, 32, out);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.25f * static_cast<float>(i - 8));
    EXPECT_EQ(out[16 + i], 0.25f * static_cast<float>(7 - i));
  }

  uint8_t q41[40] = {0x00, 0x34, 0x00, 0xbc};  // d = 0.25, m = -1; a second block of d = 0, m = 2
  for (int i = 0; i < 16; ++i) q41[4 + i] = static_cast<uint8_t>(i | ((15 - i) << 4));
  q41[22] = 0x00, q41[23] = 0x40;
  io::decode(io::Encoding::q4_1, q41, 64, out);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.25f * static_cast<float>(i) - 1.0f);
    EXPECT_EQ(out[16 + i], 0.25f * static_cast<float>(15 - i) - 1.0f);
  }
  for (int i = 32; i < 64; ++i) EXPECT_EQ(out[i], 2.0f);

  const uint8_t plain[5] = {0xff, 0x00, 0x3c, 0x80, 0x3f};  // from an odd address
  io::decode(io::Encoding::f16, plain + 1, 1, out);
  EXPECT_EQ(out[0], 1.0f);
  io::decode(io::Encoding::bf16, plain + 3, 1, out);
  EXPECT_EQ(out[0], 1.0f);
}

TEST("gguf: a file is known by its magic") {
  const TempDir dir;
  EXPECT(io::is_gguf_file(write(dir, sample().bytes())));
  EXPECT(!io::is_gguf_file(write(dir, "GGU")));
  EXPECT(!io::is_gguf_file(dir.path()));
}

}  // namespace
}  // namespace rlhi::test
