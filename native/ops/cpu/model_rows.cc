// Normalisation, rotation and gated activation, row by row. Rows that are not f32 pass through a few rows of scratch.
#include <algorithm>
#include <cstring>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kRowsPerPartial = 64;  // rows of one partial weight gradient: fixed, so that threads do not matter

// The norm's weight as floats, converted once a call.
const float* weight_floats(Backend& b, const Tensor& weight) {
  if (weight.dtype == DType::f32) return static_cast<const float*>(weight.data);
  float* floats = b.bias.floats(weight.cols);
  b.kernels.convert(floats, DType::f32, weight.data, weight.dtype, weight.cols, 1.0f);
  return floats;
}

}  // namespace

void rms_norm(Backend* backend, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x) {
  check_norm_forward(y, x, weight, groups, rstd, copy_x);
  if (x.rows == 0) return;
  const Kernels& k = backend->kernels;
  const int64_t n = x.cols / groups;
  const float* w = weight_floats(*backend, weight);
  for_ranges(*backend, x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end, int thread) {
    float* scratch = backend->local[static_cast<size_t>(thread)].floats(2 * x.cols);
    for (int64_t i = begin; i < end; ++i) {
      const float* in = read_row(k, x, i, 0, x.cols, scratch);
      if (copy_x) k.convert(row_pointer(copy_x, i), copy_x.dtype, in, DType::f32, x.cols, 1.0f);
      float* out = row_buffer(y, i, 0, scratch + x.cols);
      for (int g = 0; g < groups; ++g) {
        float r = 0;
        k.rms_norm(out + g * n, in + g * n, w, eps, n, &r);
        if (rstd) reinterpret_cast<float*>(row_pointer(rstd, i))[g] = r;
      }
      store_row(k, y, i, 0, x.cols, out);
    }
  });
}

void rms_norm_backward(Backend* backend, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                       bool accumulate) {
  check_norm_backward(dx, dweight, dy, x, weight, rstd, groups);
  const int64_t n = x.cols / groups;
  if (x.rows == 0) return;
  const Kernels& k = backend->kernels;
  const float* w = weight_floats(*backend, weight);
  const int64_t chunks = (x.rows + kRowsPerPartial - 1) / kRowsPerPartial;
  float* partial = dweight ? backend->partial.floats(chunks * n) : nullptr;
  for_ranges(*backend, chunks, 1, [&](int64_t chunk, int64_t, int thread) {
    float* scratch = backend->local[static_cast<size_t>(thread)].floats(3 * x.cols);
    float* sum = partial ? partial + chunk * n : nullptr;
    if (sum) std::memset(sum, 0, static_cast<size_t>(n) * sizeof(float));
    const int64_t end = std::min(x.rows, (chunk + 1) * kRowsPerPartial);
    for (int64_t i = chunk * kRowsPerPartial; i < end; ++i) {
      const float* xi = read_row(k, x, i, 0, x.cols, scratch);
      const float* dyi = read_row(k, dy, i, 0, x.cols, scratch + x.cols);
      float* dxi = row_buffer(dx, i, 0, scratch + 2 * x.cols);
      if (accumulate && dx.dtype != DType::f32) k.convert(dxi, DType::f32, row_pointer(dx, i), dx.dtype, x.cols, 1.0f);
      const float* r = reinterpret_cast<const float*>(row_pointer(rstd, i));
      for (int g = 0; g < groups; ++g) k.rms_norm_backward(dxi + g * n, sum, dyi + g * n, xi + g * n, w, r[g], n, accumulate);
      store_row(k, dx, i, 0, x.cols, dxi);
    }
  });
  for (int64_t c = 0; partial && c < chunks; ++c) k.add(dweight.data, DType::f32, partial + c * n, DType::f32, n);
}

void rope(Backend* backend, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction) {
  check_rope(x, head_dim, cos_sin, positions);
  for_ranges(*backend, x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      backend->kernels.rope(row_pointer(x, i), x.dtype, x.cols / head_dim, head_dim,
                            reinterpret_cast<const float*>(row_pointer(cos_sin, positions[i])), direction < 0 ? -1.0f : 1.0f);
    }
  });
}

void swiglu(Backend* backend, Tensor out, Tensor gate_up) {
  check_swiglu(out, gate_up);
  const Kernels& k = backend->kernels;
  const int64_t n = out.cols;
  for_ranges(*backend, out.rows, row_grain(2 * n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) k.swiglu(row_pointer(out, i), out.dtype, row_pointer(gate_up, i), gate_up.dtype, n);
  });
}

void swiglu_backward(Backend* backend, Tensor dgate_up, Tensor dout, Tensor gate_up) {
  check_swiglu_backward(dgate_up, dout, gate_up);
  const Kernels& k = backend->kernels;
  const int64_t n = dout.cols;
  for_ranges(*backend, dout.rows, row_grain(3 * n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      k.swiglu_backward(row_pointer(dgate_up, i), dgate_up.dtype, row_pointer(dout, i), dout.dtype, row_pointer(gate_up, i), gate_up.dtype, n);
    }
  });
}

}  // namespace rlhi::ops
