#include "ops/device_reader.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstring>
#include <new>
#include <thread>

#include "base/system.h"
#include "base/thread_pool.h"

namespace rlhi {
namespace {

constexpr size_t kCopyPieceBytes = size_t{32} << 20;   // of a copy: long enough for the bus's full speed
constexpr size_t kShareBytes = size_t{2} << 20;        // of a piece, one thread's
constexpr int kCopyThreads = 8;                        // together faster than a bus, where one thread is not

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Memory that nobody has written: large pages make its first use cheaper.
void prefer_large_pages([[maybe_unused]] char* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + 4095) / 4096 * 4096, end = (address + bytes) / 4096 * 4096;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

DeviceReader::DeviceReader(std::vector<DeviceBytes> sources, const ops::Table& ops, ops::Backend* backend, size_t piece_bytes)
    : sources_(std::move(sources)), ops_(ops), backend_(backend) {
  for (const DeviceBytes& source : sources_) piece_bytes_ = std::max(piece_bytes_, std::min(source.bytes, piece_bytes));
  for (HostBuffer& buffer : buffers_) buffer = HostBuffer(ops, backend, piece_bytes_, "a piece of what is read from the device");
}

DeviceReader::~DeviceReader() {
  if (requested_ == 0) return;
  try {
    ops_.wait(backend_, marks_[(requested_ - 1) % 2]);
  } catch (const std::exception&) {
    // The device failed: nothing comes any more.
  }
}

// Sets the next piece on its way, where there is one, into the buffer that is free.
void DeviceReader::request() {
  while (source_ < sources_.size() && offset_ == sources_[source_].bytes) ++source_, offset_ = 0;
  if (source_ == sources_.size()) return;
  const DeviceBytes& from = sources_[source_];
  const size_t n = std::min(piece_bytes_, from.bytes - offset_), slot = requested_ % 2;
  ops_.fetch(backend_, buffers_[slot].data(), static_cast<const char*>(from.data) + offset_, n);
  marks_[slot] = ops_.mark(backend_);
  offset_ += n;
  ++requested_;
}

void DeviceReader::next(const ByteSink& sink) {
  size_t left = sources_.at(next_source_).bytes;
  ++next_source_;
  if (left > 0 && requested_ == taken_) request();
  while (left > 0) {
    const size_t n = std::min(piece_bytes_, left), slot = taken_ % 2;
    ops_.wait(backend_, marks_[slot]);
    request();
    sink(buffers_[slot].data(), n);
    ++taken_;
    left -= n;
  }
}

bool room_for_copy(size_t bytes, int64_t available) {
  const auto copy = static_cast<int64_t>(bytes);
  return available - copy >= std::max(copy / 8, int64_t{1} << 30);
}

std::shared_ptr<const HostCopy> HostCopy::take(std::vector<DeviceBytes> sources, const ops::Table& ops, ops::Backend* backend,
                                               const std::atomic<bool>* abort) {
  size_t total = 0;
  for (const DeviceBytes& source : sources) total += aligned(source.bytes);
  if (!room_for_copy(total, available_memory_bytes())) return nullptr;
  std::shared_ptr<HostCopy> copy(new HostCopy);
  copy->bytes_.reset(new (std::nothrow) char[total]);
  if (!copy->bytes_) return nullptr;
  prefer_large_pages(copy->bytes_.get(), total);

  ThreadPool pool(std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kCopyThreads));
  copy->places_ = sources;
  DeviceReader reader(std::move(sources), ops, backend, kCopyPieceBytes);
  char* to = copy->bytes_.get();
  for (DeviceBytes& place : copy->places_) {
    place.data = to;
    char* at = to;
    reader.next([&](const void* data, size_t bytes) {
      check(!abort || !*abort, ErrorCode::aborted, "the save was aborted");
      const auto shares = static_cast<int64_t>((bytes + kShareBytes - 1) / kShareBytes);
      pool.parallel_for(shares, [&](int64_t share, int) {
        const size_t begin = static_cast<size_t>(share) * kShareBytes;
        std::memcpy(at + begin, static_cast<const char*>(data) + begin, std::min(kShareBytes, bytes - begin));
      });
      at += bytes;
    });
    to += aligned(place.bytes);
  }
  return copy;
}

NextBytes HostCopy::reader(const std::atomic<bool>& abort) const {
  return [this, &abort, i = size_t{0}](const ByteSink& sink) mutable {
    const auto& [data, bytes] = places_.at(i++);
    for (size_t begin = 0; begin < bytes; begin += DeviceReader::kPieceBytes) {
      check(!abort, ErrorCode::aborted, "the save was aborted");
      sink(static_cast<const char*>(data) + begin, std::min(DeviceReader::kPieceBytes, bytes - begin));
    }
  };
}

}  // namespace rlhi
