// Index lists, positions, targets and the like: host arrays of the operations' callers, brought to the GPU without waiting.
//
// A call's array is copied into a pinned slot and from there to the slot's device memory in stream order. The pinned copy
// stays, so that an array whose bytes are those of a slot (a micro-batch's positions, in every layer) costs a comparison and
// no transfer. The least recently used slot is taken for new contents; its own transfer has passed long since, else it is waited for.
#pragma once
#include <array>
#include <cstring>

#include "ops/cuda/repeated_work.h"
#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda {

class HostArrays {
 public:
  HostArrays(runtime::Stream stream, RepeatedWork& repeated) : stream_(stream), repeated_(repeated) {}
  ~HostArrays();
  HostArrays(const HostArrays&) = delete;
  HostArrays& operator=(const HostArrays&) = delete;

  // Valid until kSlots other arrays were asked for: longer than any one operation needs.
  template <class T>
  const T* on_device(const T* host, int64_t n) {
    return static_cast<const T*>(bytes_on_device(host, static_cast<size_t>(n) * sizeof(T)));
  }
  static constexpr size_t kSlots = 48;

 private:
  struct Slot {
    void *pinned = nullptr, *device = nullptr;
    size_t capacity = 0, bytes = 0;
    uint64_t used = 0;
    runtime::Event copied = nullptr;
  };
  const void* bytes_on_device(const void* host, size_t bytes);
  void grow(Slot& slot, size_t bytes);

  runtime::Stream stream_;
  RepeatedWork& repeated_;             // whose arrays have places of their own
  std::array<Slot, kSlots> slots_;
  uint64_t clock_ = 0;
};

// Device memory that grows and is reused; its contents are not kept when it grows. Throws out_of_memory.
class DeviceScratch {
 public:
  DeviceScratch() = default;
  ~DeviceScratch();
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  void* bytes(size_t n);

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace rlhi::ops::cuda
