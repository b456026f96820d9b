// Table::repeated: whatever a backend makes of it, results are those of the work done each time.
#include "test/check.h"
#include "test/tiny_models.h"

namespace rlhi::test {
namespace {

// A buffer of rows to which the rows of another are moved by a list, which is another one each time.
struct Scattering {
  explicit Scattering(ops::Device& device) : device(device), from(device.table(), device.handle(), kRows * sizeof(float), "rows"),
      to(device.table(), device.handle(), kRows * sizeof(float), "rows"), other(device.table(), device.handle(), kRows * sizeof(float), "rows") {
    std::vector<float> values(kRows);
    for (size_t i = 0; i < kRows; ++i) values[i] = static_cast<float>(i + 1);
    table().upload(handle(), from.data(), values.data(), from.bytes());
  }
  const ops::Table& table() const { return device.table(); }
  ops::Backend* handle() const { return device.handle(); }
  Tensor rows(const DeviceBuffer& of, size_t n) const { return Tensor(of.data(), DType::f32, static_cast<int64_t>(n), 1); }

  // The work: list[i] of `target` becomes row i of `from`.
  void work() const {
    table().scatter_rows(handle(), rows(*target, kRows), rows(from, list.size()), list.data());
    if (looks) {
      float first = 0;
      table().download(handle(), &first, target->data(), sizeof first);
    }
    if (fails) fail(ErrorCode::internal, "the work's own error");
  }
  std::vector<float> run(uint64_t key) {
    table().zero(handle(), target->data(), target->bytes());
    table().repeated(handle(), key, [](void* self) { static_cast<Scattering*>(self)->work(); }, this);
    return download_floats(table(), handle(), rows(*target, kRows));
  }
  std::vector<float> expected() const {
    std::vector<float> values(kRows, 0.0f);
    for (size_t i = 0; i < list.size(); ++i) values[static_cast<size_t>(list[i])] = static_cast<float>(i + 1);
    return values;
  }

  static constexpr size_t kRows = 900;
  ops::Device& device;
  DeviceBuffer from, to, other;
  const DeviceBuffer* target = &to;
  std::vector<int32_t> list;
  bool looks = false, fails = false;
};

std::vector<int32_t> some_rows(size_t n, uint64_t seed) {
  std::vector<int32_t> all(Scattering::kRows);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>((i * 7 + seed * 13) % all.size());
  all.resize(n);
  return all;
}

TEST("repeated work: lists of another content, another length, and tensors elsewhere are seen each time") {
  const auto device = open_backend();
  Scattering s(*device);
  const auto check = [&](size_t n, uint64_t seed, uint64_t key) {
    s.list = some_rows(n, seed);
    EXPECT(s.run(key) == s.expected());
  };
  for (uint64_t i = 0; i < 5; ++i) check(20, i, 1);
  EXPECT_EQ(device->graph_launches(), on_cpu() ? 0 : 4);    // all but the first
  for (const size_t n : {21, 900, 20, 1}) check(n, n, 1);   // another number of launched rows, and more than the list's place takes
  for (uint64_t i = 0; i < 6; ++i) {
    s.target = i % 2 == 0 ? &s.to : &s.other;
    check(20, i, 1);
  }
  for (uint64_t key = 100; key < 120; ++key) {              // more keys than are kept
    for (uint64_t i = 0; i < 3; ++i) check(static_cast<size_t>(key), i, key);
  }
  s.target = &s.to;
  check(100, 9, 100);
}

TEST("repeated work: what cannot be part of it is done all the same, and its own errors are told") {
  const auto device = open_backend();
  Scattering s(*device);
  s.list = some_rows(30, 4);
  s.looks = true;
  for (int i = 0; i < 4; ++i) EXPECT(s.run(1) == s.expected());
  EXPECT_EQ(device->graph_launches(), 0);
  s.looks = false, s.fails = true;
  for (int i = 0; i < 4; ++i) EXPECT_ERROR(s.run(2), ErrorCode::internal, "the work's own error");
  s.fails = false;
  EXPECT(s.run(2) == s.expected());
}

}  // namespace
}  // namespace rlhi::test
