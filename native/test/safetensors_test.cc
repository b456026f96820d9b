// Reading and writing safetensors: round trips, torn files and headers that lie.
#include "base/dtype.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "test/check.h"
#include "test/temp_dir.h"

namespace rlhi::test {
namespace {

using io::SafetensorsFile;
using io::SafetensorsInfo;

// A file of this header and so many bytes of data.
std::string file_bytes(const std::string& header, size_t data_bytes) {
  return bytes_of<uint64_t>(header.size()) + header + std::string(data_bytes, '\1');
}

const std::vector<float> kA = {1.5f, -2.0f, 3.25f, 0.0f, -0.0f, 1e-40f};
const std::vector<uint16_t> kB = {0x3f80, 0xc000, 0x0001};

void write_sample(const std::string& path) {
  const std::vector<SafetensorsInfo> infos = {{"b", DType::bf16, {3}}, {"a", DType::f32, {2, 3}}, {"empty", DType::f32, {0, 5}}};
  io::write_safetensors(path, infos, [&](size_t i, const io::SafetensorsSink& sink) {
    if (i == 0) sink(kB.data(), 6);
    if (i == 1) {
      sink(kA.data(), 4);  // in two pieces
      sink(kA.data() + 1, 20);
    }
  });
}

TEST("safetensors: what is written reads back, odd sizes and empty tensors included") {
  const TempDir dir;
  write_sample(dir.file("x.safetensors"));
  const SafetensorsFile file(dir.file("x.safetensors"));
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const io::SafetensorsEntry* a = file.find("a");
  EXPECT(a && a->dtype == "F32" && a->shape == (std::vector<int64_t>{2, 3}) && a->elements() == 6);
  EXPECT(std::memcmp(a->data, kA.data(), 24) == 0);
  const io::SafetensorsEntry* b = file.find("b");
  EXPECT(b && b->dtype == "BF16" && std::memcmp(b->data, kB.data(), 6) == 0);
  EXPECT(file.find("empty")->bytes == 0);
  EXPECT(file.find("c") == nullptr);
  uint64_t header = 0;
  std::memcpy(&header, read_bytes(dir.file("x.safetensors")).data(), 8);
  EXPECT_EQ(header % 8, 0u);
}

TEST("safetensors: a file cut off at any byte is invalid, with expected and found sizes") {
  const TempDir dir;
  write_sample(dir.file("whole"));
  const std::string bytes = read_bytes(dir.file("whole"));
  for (size_t n = 0; n < bytes.size(); ++n) {
    write_bytes(dir.file("cut"), bytes.substr(0, n));
    EXPECT_ERROR(SafetensorsFile(dir.file("cut")), ErrorCode::invalid_file, concat("found ", n));
  }
  write_bytes(dir.file("long"), bytes + "x");
  EXPECT_ERROR(SafetensorsFile(dir.file("long")), ErrorCode::invalid_file,
               concat("expected ", bytes.size(), " bytes, found ", bytes.size() + 1));
}

TEST("safetensors: any single damaged byte of the header is an error or a valid file, never a crash") {
  const TempDir dir;
  write_sample(dir.file("whole"));
  const std::string bytes = read_bytes(dir.file("whole"));
  int refused = 0;
  for (size_t i = 0; i < bytes.size() - 30; ++i) {
    for (const char damage : {'\0', '9', '"', '\xff'}) {
      std::string damaged = bytes;
      damaged[i] = damage;
      write_bytes(dir.file("damaged"), damaged);
      try {
        SafetensorsFile file(dir.file("damaged"));
      } catch (const Error& e) {
        EXPECT(e.code() == ErrorCode::invalid_file || e.code() == ErrorCode::unsupported);
        ++refused;
      }
    }
  }
  EXPECT(refused > 400);
}

TEST("safetensors: headers that contradict themselves are refused, naming the tensor") {
  const TempDir dir;
  const auto expect = [&](const std::string& header, size_t data, const char* part, ErrorCode code = ErrorCode::invalid_file) {
    write_bytes(dir.file("f"), file_bytes(header, data));
    EXPECT_ERROR(SafetensorsFile(dir.file("f")), code, part);
  };
  expect(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12,
         "tensor v begins at byte 4 of the data, expected 8 (tensors overlap)");
  expect(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"v":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 12,
         "tensor v begins at byte 8 of the data, expected 4 (a hole between tensors)");
  expect(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "tensor w: dtype and shape take 12 bytes, data_offsets hold 8");
  expect(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "tensor w: shape holds -2");
  expect(R"({"w":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})", 8,
         "tensor w: the shape's product is too large");
  expect(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "tensor w: data_offsets [8, 0] are not a range");
  expect(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8, "are not a range");
  expect(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "data_offsets has 1 numbers");
  expect(R"({"w":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, "tensor w: expected an integer, found a number");
  expect(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", 8, "tensor w: shape is missing");
  expect(R"({"w":3})", 8, "tensor w: expected an object, found an integer");
  expect(R"({"w":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}})", 8, "tensor w: dtype F4 is not known", ErrorCode::unsupported);
  expect("[1]", 0, "the header is an array");
  expect("{", 0, "header: not valid JSON");
  write_bytes(dir.file("f"), bytes_of<uint64_t>(uint64_t{1} << 62) + "{}");
  EXPECT_ERROR(SafetensorsFile(dir.file("f")), ErrorCode::invalid_file, "not a safetensors file");
}

TEST("safetensors: integer tensors are no weights") {
  const TempDir dir;
  write_bytes(dir.file("f"), file_bytes(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8));
  const SafetensorsFile file(dir.file("f"));
  EXPECT_ERROR(io::float_dtype(file.tensors()[0], file.path()), ErrorCode::unsupported,
               "tensor ids has dtype I64; F32, F16 and BF16 are read");
}

TEST("safetensors: a writer handed too much or too little leaves no file") {
  const TempDir dir;
  const std::vector<SafetensorsInfo> infos = {{"a", DType::f32, {2}}};
  EXPECT_ERROR(io::write_safetensors(dir.file("f"), infos, [](size_t, const io::SafetensorsSink& sink) { sink("1234", 4); }),
               ErrorCode::internal, "4 bytes for a, expected 8");
  EXPECT_ERROR(io::write_safetensors(dir.file("f"), infos, [](size_t, const io::SafetensorsSink& sink) { sink("123456789", 9); }),
               ErrorCode::internal, "more than 8 bytes");
  EXPECT_EQ(dir.entries(), 0u);
}

TEST("safetensors: folders: one file, shards by their index, and what can be missing") {
  const TempDir dir;
  EXPECT_ERROR(io::open_safetensors_folder(dir.path()), ErrorCode::invalid_file, "neither model.safetensors nor");
  write_bytes(dir.file("pytorch_model.bin"), "");
  EXPECT_ERROR(io::open_safetensors_folder(dir.path()), ErrorCode::invalid_file, "pickle");
  const auto one = [&](const std::string& file, const std::string& tensor) {
    io::write_safetensors(dir.file(file), {{tensor, DType::f32, {1}}}, [](size_t, const io::SafetensorsSink& sink) { sink("1234", 4); });
  };
  one("s1", "x");
  one("s2", "y");
  const std::string index = dir.file("model.safetensors.index.json");
  write_bytes(index, R"({"metadata":{"total_size":8},"weight_map":{"x":"s1","y":"s2"}})");
  EXPECT_EQ(io::open_safetensors_folder(dir.path()).size(), 2u);
  const auto expect = [&](const char* text, const char* part) {
    write_bytes(index, text);
    EXPECT_ERROR(io::open_safetensors_folder(dir.path()), ErrorCode::invalid_file, part);
  };
  expect(R"({"weight_map":{"x":"s1","y":"s3"}})", "s3: this shard is missing");
  expect(R"({"weight_map":{"x":"s1","z":"s2"}})", "s2: tensor z is missing");
  expect(R"({"weight_map":{"x":"../s1"}})", "is not a file name inside the folder");
  expect(R"({"weight_map":{"x":7}})", "weight_map of x is an integer");
  expect(R"({"weight_map":{}})", "weight_map is missing or empty");
  expect(R"({"weight_map":)", "not valid JSON");
  one("s2", "x");
  one("s3", "y");
  expect(R"({"weight_map":{"x":"s1","y":"s3","x2":"s2"}})", "x2 is missing");
  io::write_safetensors(dir.file("s3"), {{"y", DType::f32, {1}}, {"x", DType::f32, {1}}},
                        [](size_t, const io::SafetensorsSink& sink) { sink("1234", 4); });
  expect(R"({"weight_map":{"x":"s1","y":"s3"}})", "tensor x is also in");
  one("model.safetensors", "x");
  EXPECT_EQ(io::open_safetensors_folder(dir.path()).size(), 1u);
}

}  // namespace
}  // namespace rlhi::test
