// Backend memory that is released with its owner, and the cutting of one allocation into tensors.
#pragma once
#include <utility>

#include "base/tensor.h"
#include "ops/ops.h"

namespace rlhi {

// One allocation of a backend. Moves, never copies.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Zeroed memory. Throws out_of_memory naming `what` and the size.
  DeviceBuffer(const ops::Table& ops, ops::Backend* backend, size_t bytes, const char* what) : ops_(&ops), backend_(backend),
      bytes_(bytes) {
    if (bytes == 0) return;
    data_ = ops.alloc(backend, bytes);
    check(data_ != nullptr, ErrorCode::out_of_memory, "could not allocate ", bytes, " bytes for ", what);
  }
  ~DeviceBuffer() { reset(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void reset() {
    if (data_) ops_->release(backend_, data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(ops_, other.ops_);
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  const ops::Table* ops_ = nullptr;
  ops::Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Cuts tensors, each on a 64-byte boundary, from one buffer. With a null base it only counts, so that one function
// both plans a buffer's size and lays it out.
class BufferCutter {
 public:
  explicit BufferCutter(void* base) : base_(static_cast<char*>(base)) {}
  Tensor take(DType dtype, int64_t rows, int64_t cols) {
    Tensor t(base_ ? base_ + bytes_ : nullptr, dtype, rows, cols);
    bytes_ += taken_by(t);
    return t;
  }
  static size_t taken_by(const Tensor& t) { return (static_cast<size_t>(t.bytes()) + 63) / 64 * 64; }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

}  // namespace rlhi
