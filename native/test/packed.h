// A weight packed on a backend, and its memory.
#pragma once
#include <optional>

#include "test/ops_support.h"

namespace rlhi::test {

class Packed {
 public:
  Packed(const ops::Table& ops, ops::Backend* backend, const Tensor& w)
      : ops_(ops), backend_(backend), bytes_(ops.packed_bytes(backend, w.dtype, w.rows, w.cols)) {
    if (bytes_ == 0) return;           // this backend reads weights as they are
    weight_.data = ops.alloc(backend, bytes_);
    ops.pack_weight(backend, &weight_, w);
  }
  ~Packed() {
    if (bytes_ > 0) ops_.release(backend_, weight_.data, bytes_);
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  bool is_packed() const { return bytes_ > 0; }
  ops::PackedWeight& weight() { return weight_; }

 private:
  const ops::Table& ops_;
  ops::Backend* backend_;
  size_t bytes_;
  ops::PackedWeight weight_;
};

}  // namespace rlhi::test
