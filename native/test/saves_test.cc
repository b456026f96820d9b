// Saves in two halves: what is read from a device, what is taken, and what is written of it later.
#include <algorithm>
#include <filesystem>
#include <map>

#include "ops/device_reader.h"
#include "test/check.h"
#include "test/temp_dir.h"
#include "test/tiny_models.h"
#include "train/trainer.h"

namespace rlhi::test {
namespace {

const std::atomic<bool> kGoOn{false};

DeferredWrite taken(DeferredWrite write) {
  if (!write) throw Skip{"no memory for a copy"};
  return write;
}

std::map<std::string, std::string> files_in(const TempDir& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) files[entry.path().filename().string()] = read_bytes(entry.path().string());
  return files;
}

int fetches = 0;
void (*real_fetch)(ops::Backend*, void*, const void*, size_t) = nullptr;

TEST("saves: a device's bytes come in order and whole, the next piece on its way while one is looked at") {
  const auto device = open_backend();
  std::vector<char> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 256);
  const DeviceBuffer buffer(device->table(), device->handle(), bytes.size(), "a test's bytes");
  device->table().upload(device->handle(), buffer.data(), bytes.data(), bytes.size());
  ops::Table counting = device->table();
  real_fetch = counting.fetch;
  counting.fetch = [](ops::Backend* b, void* to, const void* from, size_t n) {
    ++fetches;
    real_fetch(b, to, from, n);
  };
  fetches = 0;
  // Pieces of 64 bytes: 0 of nothing, one short, four whole ones, one whole and one short, none, and ten.
  const std::vector<size_t> lengths = {0, 20, 256, 68, 0, 640};
  std::vector<DeviceBytes> sources;
  size_t at = 0;
  for (const size_t n : lengths) {
    sources.push_back({static_cast<const char*>(buffer.data()) + at, n});
    at += n;
  }
  DeviceReader reader(sources, counting, device->handle(), 64);
  std::vector<char> read;
  int pieces = 0;
  for (const size_t n : lengths) {
    const size_t before = read.size();
    reader.next([&](const void* data, size_t count) {
      ++pieces;
      EXPECT_EQ(fetches, std::min(pieces + 1, 17));
      read.insert(read.end(), static_cast<const char*>(data), static_cast<const char*>(data) + count);
    });
    EXPECT_EQ(read.size() - before, n);
  }
  EXPECT_EQ(pieces, 17);
  EXPECT(std::equal(read.begin(), read.end(), bytes.begin()));
}

TEST("saves: weights taken and written after they have changed are the files of a save in one, in every form") {
  for (const DType held : {DType::f32, DType::bf16}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t limit : {int64_t{5} << 30, int64_t{20000}}) {
        TinyModel m(tiny_config(Architecture::qwen3), held);
        const TempDir at_once, later;
        save_pretrained(at_once.path(), m.weights, dtype, m.ops(), m.handle(), "", limit);
        const DeferredWrite write = taken(take_pretrained(later.path(), m.weights, dtype, m.ops(), m.handle(), "", limit));
        EXPECT_EQ(later.entries(), 0u);
        fill(m.weights, *m.backend, 99);
        write(kGoOn);
        EXPECT(files_in(later) == files_in(at_once));
        EXPECT_EQ(later.entries() > 2, limit == 20000);
      }
    }
  }
}

TEST("saves: a state taken and written after the next step is the file of a save in one") {
  for (const ops::Moments moments : {ops::Moments::f32, ops::Moments::bf16, ops::Moments::coded}) {
    TinyModel m(tiny_config(Architecture::qwen2), DType::bf16);
    TrainOptions options;
    options.learning_rate = 1e-2, options.moments = moments;
    Trainer trainer(m.weights, m.transformer, options, m.ops(), m.handle());
    const std::vector<Pair> pairs = random_pairs(5, 3, m.weights.config().vocab_size);
    trainer.step(pairs);
    const TempDir at_once, later, next;
    trainer.save_state(at_once.path());
    const DeferredWrite write = taken(trainer.take_state(later.path()));
    trainer.step(pairs);
    trainer.save_state(next.path());
    write(kGoOn);
    EXPECT(files_in(later) == files_in(at_once));
    EXPECT(files_in(next) != files_in(at_once));
    trainer.load_state(later.path());
    EXPECT_EQ(trainer.steps_done(), 1);
  }
}

TEST("saves: a write that fails or is aborted says so and leaves what was there") {
  TinyModel m(tiny_config(Architecture::llama), DType::f32);
  const TempDir dir;
  save_pretrained(dir.path(), m.weights, DType::f32, m.ops(), m.handle());
  const auto before = files_in(dir);
  fill(m.weights, *m.backend, 99);
  const std::atomic<bool> abort{true};
  EXPECT_ERROR(taken(take_pretrained(dir.path(), m.weights, DType::f32, m.ops(), m.handle()))(abort), ErrorCode::aborted, "aborted");
  EXPECT_ERROR(HostCopy::take({{m.weights.data(), m.weights.bytes()}}, m.ops(), m.handle(), &abort), ErrorCode::aborted, "aborted");
  EXPECT(files_in(dir) == before);

  const std::string gone = dir.file("gone");
  std::filesystem::create_directory(gone);
  const DeferredWrite write = taken(take_pretrained(gone, m.weights, DType::f32, m.ops(), m.handle()));
  std::filesystem::remove(gone);
  EXPECT_ERROR(write(kGoOn), ErrorCode::io, gone + "/model.safetensors: cannot create");
  EXPECT_ERROR(take_pretrained(gone, m.weights, DType::f32, m.ops(), m.handle()), ErrorCode::io, "not a folder");
  EXPECT(files_in(dir) == before);
}

TEST("saves: a copy is made only where an eighth of it, and 1 GiB at least, stays free") {
  constexpr int64_t GiB = int64_t{1} << 30;
  EXPECT(room_for_copy(100, GiB + 100) && !room_for_copy(100, GiB + 99));
  EXPECT(room_for_copy(size_t{64} << 30, 72 * GiB) && !room_for_copy(size_t{64} << 30, 72 * GiB - 1));
  EXPECT(!room_for_copy(0, 0));                // where the machine does not say
}

}  // namespace
}  // namespace rlhi::test
