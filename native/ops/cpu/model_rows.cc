// Normalisation, rotation and gated activation, row by row. Rows that are not f32 pass through a few rows of scratch.
#include <algorithm>
#include <cstring>

#include "ops/cpu/row_sums.h"

namespace rlhi::ops {
namespace {

// The norm's weight as floats, converted once a call.
const float* weight_floats(Backend& b, const Tensor& weight) {
  if (weight.dtype == DType::f32) return static_cast<const float*>(weight.data);
  float* floats = b.bias.floats(weight.cols);
  b.kernels.convert(floats, DType::f32, weight.data, weight.dtype, weight.cols, 1.0f);
  return floats;
}

struct NormBackward {
  Backend& backend;
  Tensor dx, dy, x, rstd;
  const float* weight;
  int groups;
  int64_t n;                   // columns of a group
  bool accumulate;

  const float* rstd_row(int64_t i) const { return reinterpret_cast<const float*>(row_pointer(rstd, i)); }

  // dx of rows [begin, end), whose dweight is added to `sums` [n] unless that is null.
  void run(int64_t begin, int64_t end, float* sums, int thread) const {
    const Kernels& k = backend.kernels;
    float* scratch = backend.local[static_cast<size_t>(thread)].floats(3 * x.cols);
    for (int64_t i = begin; i < end; ++i) {
      const float* xi = read_row(k, x, i, 0, x.cols, scratch);
      const float* dyi = read_row(k, dy, i, 0, x.cols, scratch + x.cols);
      float* dxi = row_buffer(dx, i, 0, scratch + 2 * x.cols);
      if (accumulate && dx.dtype != DType::f32) k.convert(dxi, DType::f32, row_pointer(dx, i), dx.dtype, x.cols, 1.0f);
      const float* r = rstd_row(i);
      for (int g = 0; g < groups; ++g) k.rms_norm_backward(dxi + g * n, sums, dyi + g * n, xi + g * n, weight, r[g], n, accumulate);
      store_row(k, dx, i, 0, x.cols, dxi);
    }
  }

  // sums += columns [begin, end) of a row's dweight
  void add_weight_row(float* sums, int64_t i, int64_t begin, int64_t end, int thread) const {
    const Kernels& k = backend.kernels;
    const int64_t width = end - begin;
    float* scratch = backend.local[static_cast<size_t>(thread)].floats(2 * width);
    for (int g = 0; g < groups; ++g) {
      const float* xi = read_row(k, x, i, g * n + begin, width, scratch);
      const float* dyi = read_row(k, dy, i, g * n + begin, width, scratch + width);
      k.rms_norm_weight(sums, dyi, xi, rstd_row(i)[g], width);
    }
  }
};

// Whether so many equal chunks keep the threads busy enough that dx and dweight are made together: one after the other they read x and
// dy twice and move five thirds of the bytes.
bool all_busy(int64_t chunks, int64_t threads) { return 3 * ((chunks + threads - 1) / threads) * threads <= 5 * chunks; }

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
  if (x.rows == 0) return;
  const NormBackward norm{*backend, dx, dy, x, rstd, weight_floats(*backend, weight), groups, x.cols / groups, accumulate};
  const int64_t chunks = chunks_of(x.rows);
  if (dweight && all_busy(chunks, backend->pool.threads())) {
    float* partial = backend->partial.floats(chunks * norm.n);
    for_ranges(*backend, chunks, 1, [&](int64_t chunk, int64_t, int thread) {
      float* sums = partial + chunk * norm.n;
      std::memset(sums, 0, static_cast<size_t>(norm.n) * sizeof(float));
      norm.run(chunk * kRowsPerPartial, std::min(x.rows, (chunk + 1) * kRowsPerPartial), sums, thread);
    });
    add_partials(*backend, dweight, partial, chunks);
    return;
  }
  if (dweight) {  // before dx, which may be dy
    sum_rows(*backend, dweight, x.rows, [&](float* sums, int64_t i, int64_t begin, int64_t end, int thread) {
      norm.add_weight_row(sums, i, begin, end, thread);
    });
  }
  for_ranges(*backend, x.rows, row_grain(x.cols), [&](int64_t begin, int64_t end, int thread) { norm.run(begin, end, nullptr, thread); });
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

void swiglu_backward(Backend* backend, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out) {
  check_swiglu_backward(dgate_up, dout, gate_up, out);
  const Kernels& k = backend->kernels;
  const int64_t n = dout.cols;
  for_ranges(*backend, dout.rows, row_grain(3 * n), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      k.swiglu_backward(row_pointer(dgate_up, i), dgate_up.dtype, row_pointer(dout, i), dout.dtype, row_pointer(gate_up, i), gate_up.dtype,
                        out ? row_pointer(out, i) : nullptr, out.dtype, n);
    }
  });
}

}  // namespace rlhi::ops
