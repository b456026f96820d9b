// The matrix product of the table: what cuBLASLt does not take is brought into a form that it does.
#include "ops/checks.h"
#include "ops/cuda/backend.h"

namespace rlhi::ops::cuda {
namespace {

// `t` itself, or a contiguous copy of it as `dtype` in scratch.
Tensor as_dtype(CudaBackend& cuda, const Tensor& t, DType dtype, DeviceScratch& scratch) {
  if (t.dtype == dtype) return t;
  const Tensor copy(scratch.bytes(static_cast<size_t>(t.size() * dtype_size(dtype))), dtype, t.rows, t.cols);
  move_rows(cuda.launch, copy, nullptr, t, nullptr, t.rows);
  return copy;
}

// An empty sum: zeros, the bias, or c as it is.
void multiply_nothing(CudaBackend& cuda, const GemmArgs& g) {
  const auto size = static_cast<size_t>(dtype_size(g.c.dtype));
  if (!g.accumulate)
    runtime::zero_rows(cuda.launch.stream, g.c.data, static_cast<size_t>(g.c.row_stride) * size, static_cast<size_t>(g.c.cols) * size,
                       static_cast<size_t>(g.c.rows));
  for (int64_t i = 0; g.bias && i < g.c.rows; ++i) add(cuda.launch, g.c.row_range(i, 1), g.bias);
}

}  // namespace

void multiply(CudaBackend& cuda, const GemmArgs& given, int64_t aligned_cols) {
  GemmArgs g = given;
  if (g.a.dtype != g.b.dtype) {  // rare: products of the model have both of one type
    g.a = as_dtype(cuda, g.a, DType::f32, cuda.operand_a);
    g.b = as_dtype(cuda, g.b, DType::f32, cuda.operand_b);
  }
  if (g.a.dtype == DType::f32 && g.c.dtype == DType::bf16) {  // f32 operands give f32 sums, rounded by a copy
    GemmArgs wide = g;
    wide.c = Tensor(cuda.wide_result.bytes(static_cast<size_t>(g.c.size()) * sizeof(float)), DType::f32, g.c.rows, g.c.cols);
    wide.accumulate = false;
    multiply(cuda, wide, 0);
    if (g.accumulate) return add(cuda.launch, g.c, wide.c);
    return move_rows(cuda.launch, g.c, nullptr, wide.c, nullptr, g.c.rows);
  }
  if (g.bias) g.bias = as_dtype(cuda, g.bias, g.c.dtype, cuda.bias);
  cuda.gemm.multiply(g, aligned_cols);
}

void gemm(Backend* backend, const GemmArgs& g) {
  const GemmShape shape = check_gemm(g);
  check(g.packed_b == nullptr, ErrorCode::unsupported, "gemm: the CUDA backend packs no weights");
  if (shape.m == 0 || shape.n == 0) return;
  CudaBackend& cuda = enter(backend);
  if (g.swiglu_c) {
    GemmArgs plain = g;
    plain.swiglu_c = false;
    plain.c = Tensor(cuda.gate_up.bytes(static_cast<size_t>(shape.m * shape.n * dtype_size(g.c.dtype))), g.c.dtype, shape.m, shape.n);
    if (takes_few_rows(g) && cuda.gemm.is_own(plain)) return few_rows_product(cuda.launch, g);
    gemm(backend, plain);
    return swiglu(cuda.launch, g.c, plain.c);
  }
  if (shape.k == 0) return multiply_nothing(cuda, g);
  multiply(cuda, g, 0);
}

}  // namespace rlhi::ops::cuda
