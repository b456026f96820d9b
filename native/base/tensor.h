// A non-owning, row-major, two-dimensional view. Everything the engine computes on has two dimensions: a vector is one
// row; queries of many heads are [tokens, n_heads * head_dim]. row_stride (in elements) lets a view be a column range
// of a wider buffer, as q, k and v are of the merged qkv product.
#pragma once
#include <cstddef>

#include "base/dtype.h"
#include "base/error.h"

namespace rlhi {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;

  Tensor() = default;
  Tensor(void* d, DType t, int64_t r, int64_t c) : data(d), dtype(t), rows(r), cols(c), row_stride(c) {}
  Tensor(void* d, DType t, int64_t r, int64_t c, int64_t stride) : data(d), dtype(t), rows(r), cols(c), row_stride(stride) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return rows * cols; }
  int64_t bytes() const { return size() * dtype_size(dtype); }
  bool contiguous() const { return row_stride == cols || rows <= 1; }

  template <class T>
  T* get() const {  // T: float, bf16 or int32_t; throws where it is not the view's dtype
    check(matches(static_cast<T*>(nullptr)), ErrorCode::internal, "tensor is ", dtype_name(dtype), ", another type was asked for");
    return static_cast<T*>(data);
  }
  Tensor row_range(int64_t begin, int64_t count) const {
    return Tensor(static_cast<char*>(data) + begin * row_stride * dtype_size(dtype), dtype, count, cols, row_stride);
  }
  Tensor col_range(int64_t begin, int64_t count) const {
    return Tensor(static_cast<char*>(data) + begin * dtype_size(dtype), dtype, rows, count, row_stride);
  }

 private:
  bool matches(const float*) const { return dtype == DType::f32; }
  bool matches(const bf16*) const { return dtype == DType::bf16; }
  bool matches(const int32_t*) const { return dtype == DType::i32; }
};

}  // namespace rlhi
