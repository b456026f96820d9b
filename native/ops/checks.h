// What every backend refuses, in the same words: arguments whose shapes or types do not fit an operation. All throw
// invalid_argument naming the operation and the tensor.
#pragma once
#include "ops/ops.h"

namespace rlhi::ops {

void check_float(const char* op, const char* name, const Tensor& t);  // f32 or bf16
void check_f32(const char* op, const char* name, const Tensor& t);
void check_shape(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t cols);  // and f32 or bf16

struct GemmShape {
  int64_t m, n, k;
};
GemmShape check_gemm(const GemmArgs& g);

void check_same_shape(const char* op, const Tensor& to, const Tensor& from);
// `rows` of `to` and `from` that are moved one for one; the other side is chosen by index.
void check_moved_rows(const char* op, const char* from_name, const Tensor& from, const char* to_name, const Tensor& to);
void check_scatter_add(const Tensor& to, const Tensor& from);
void check_column_sum(const Tensor& to, const Tensor& from);
void check_norm(const char* op, const Tensor& x, const Tensor& weight, int groups, const Tensor& rstd);
void check_norm_forward(const Tensor& y, const Tensor& x, const Tensor& weight, int groups, const Tensor& rstd, const Tensor& copy_x);
void check_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                         int groups);
void check_rope(const Tensor& x, int head_dim, const Tensor& cos_sin, const int32_t* positions);
void check_swiglu(const Tensor& out, const Tensor& gate_up);
void check_swiglu_backward(const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up, const Tensor& out);
void check_attention(const char* op, const AttentionArgs& a);
void check_attention_backward(const AttentionBackwardArgs& a);
void check_logprob(const char* op, const LinearLogprobArgs& a);
void check_logprob_backward(const LinearLogprobBackwardArgs& a);
void check_preference_loss(const PreferenceLossArgs& a);
void check_choose_tokens(const Tensor& logits, const TokenChoice* choices, int64_t n);
[[noreturn]] void fail_logits(int64_t row, float highest);  // that are not finite: what was found as their maximum, or NaN
void check_sum_of_squares(const Tensor& x);
void check_adamw(const AdamWArgs& a);

}  // namespace rlhi::ops
