#include "ops/cuda/host_arrays.h"

#include <algorithm>

#include "base/error.h"

namespace rlhi::ops::cuda {

HostArrays::~HostArrays() {
  for (Slot& slot : slots_) {
    if (slot.copied) runtime::destroy_event(slot.copied);
    if (slot.pinned) runtime::release_pinned(slot.pinned);
    if (slot.device) runtime::release(slot.device);
  }
}

void HostArrays::grow(Slot& slot, size_t bytes) {
  if (slot.pinned) runtime::release_pinned(slot.pinned);
  if (slot.device) runtime::release(slot.device);
  slot.pinned = slot.device = nullptr;
  slot.capacity = 0;
  const size_t capacity = std::max<size_t>(4096, bytes + bytes / 2);
  slot.device = runtime::allocate(capacity);
  check(slot.device != nullptr, ErrorCode::out_of_memory, "no ", capacity, " bytes of GPU memory for an index list");
  slot.pinned = runtime::allocate_pinned(capacity);
  check(slot.pinned != nullptr, ErrorCode::out_of_memory, "no ", capacity, " bytes of pinned memory for an index list");
  slot.capacity = capacity;
}

const void* HostArrays::bytes_on_device(const void* host, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (repeated_.has_places()) return repeated_.place_of(host, bytes);
  ++clock_;
  for (Slot& slot : slots_) {
    if (slot.bytes != bytes || std::memcmp(slot.pinned, host, bytes) != 0) continue;
    slot.used = clock_;
    return slot.device;
  }
  Slot& slot = *std::min_element(slots_.begin(), slots_.end(), [](const Slot& a, const Slot& b) { return a.used < b.used; });
  slot.bytes = 0;
  if (slot.copied) runtime::wait(slot.copied);
  else slot.copied = runtime::create_event();
  if (bytes > slot.capacity) grow(slot, bytes);
  std::memcpy(slot.pinned, host, bytes);
  runtime::copy_in(stream_, slot.device, slot.pinned, bytes);
  runtime::record(slot.copied, stream_);
  slot.bytes = bytes, slot.used = clock_;
  return slot.device;
}

DeviceScratch::~DeviceScratch() {
  if (data_) runtime::release(data_);
}

void* DeviceScratch::bytes(size_t n) {
  if (n > bytes_) {
    if (data_) runtime::release(data_);  // waits for the work that uses it
    data_ = nullptr;
    bytes_ = 0;
    data_ = runtime::allocate(n);
    check(data_ != nullptr, ErrorCode::out_of_memory, "no ", n, " bytes of GPU memory for an operation's scratch");
    bytes_ = n;
  }
  return data_;
}

}  // namespace rlhi::ops::cuda
