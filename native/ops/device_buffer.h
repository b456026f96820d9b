// Memory of a backend, on its device or the host's, that is released with its owner, and the cutting of one allocation into tensors.
#pragma once
#include <utility>

#include "base/tensor.h"
#include "ops/ops.h"

namespace rlhi {

// One allocation of a backend. Moves, never copies.
template <auto kAllocate, auto kRelease>
class OwnedBuffer {
 public:
  OwnedBuffer() = default;
  // Zeroed memory. Throws out_of_memory naming `what` and the size.
  OwnedBuffer(const ops::Table& ops, ops::Backend* backend, size_t bytes, const char* what) : ops_(&ops), backend_(backend),
      bytes_(bytes) {
    if (bytes == 0) return;
    data_ = (ops.*kAllocate)(backend, bytes);
    check(data_ != nullptr, ErrorCode::out_of_memory, "could not allocate ", bytes, " bytes for ", what);
  }
  ~OwnedBuffer() { reset(); }
  OwnedBuffer(OwnedBuffer&& other) noexcept { swap(other); }
  OwnedBuffer& operator=(OwnedBuffer&& other) noexcept {
    OwnedBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  OwnedBuffer(const OwnedBuffer&) = delete;
  OwnedBuffer& operator=(const OwnedBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void reset() {
    if (data_) (ops_->*kRelease)(backend_, data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

 private:
  void swap(OwnedBuffer& other) noexcept {
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

using DeviceBuffer = OwnedBuffer<&ops::Table::alloc, &ops::Table::release>;
using HostBuffer = OwnedBuffer<&ops::Table::alloc_host, &ops::Table::release_host>;  // in which fetch leaves what it brings

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
