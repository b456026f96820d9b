#include "ops/checks.h"

#include <cmath>

#include "base/error.h"

namespace rlhi::ops {

void check_float(const char* op, const char* name, const Tensor& t) {
  check(t.dtype == DType::f32 || t.dtype == DType::bf16, ErrorCode::invalid_argument, op, ": ", name, " is ", dtype_name(t.dtype),
        ", expected f32 or bf16");
}
void check_f32(const char* op, const char* name, const Tensor& t) {
  check(t.dtype == DType::f32, ErrorCode::invalid_argument, op, ": ", name, " is ", dtype_name(t.dtype), ", expected f32");
}
void check_shape(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t cols) {
  check_float(op, name, t);
  check(t.rows == rows && t.cols == cols, ErrorCode::invalid_argument, op, ": ", name,
        " is [", t.rows, ", ", t.cols, "], expected [", rows, ", ", cols, "]");
}

GemmShape check_gemm(const GemmArgs& g) {
  check_float("gemm", "a", g.a);
  check_float("gemm", "c", g.c);
  const bool tn = g.form == GemmForm::tn, nt = g.form == GemmForm::nt;
  check(!g.swiglu_c || (nt && !g.bias && !g.accumulate), ErrorCode::invalid_argument, "gemm: swiglu_c needs the form nt, no bias and no accumulation");
  const GemmShape s{tn ? g.a.cols : g.a.rows, g.swiglu_c ? 2 * g.c.cols : g.c.cols, tn ? g.a.rows : g.a.cols};
  if (g.packed_b) {
    check(nt, ErrorCode::invalid_argument, "gemm: a packed weight needs the form nt");
    check(g.packed_b->n == s.n && g.packed_b->k == s.k, ErrorCode::invalid_argument,
          "gemm: packed_b is [", g.packed_b->n, ", ", g.packed_b->k, "], expected [", s.n, ", ", s.k, "]");
  } else {
    check_shape("gemm", "b", g.b, nt ? s.n : s.k, nt ? s.k : s.n);
  }
  check_shape("gemm", "c", g.c, s.m, g.swiglu_c ? s.n / 2 : s.n);
  if (g.bias) check_shape("gemm", "bias", g.bias, 1, s.n);
  return s;
}

void check_same_shape(const char* op, const Tensor& to, const Tensor& from) {
  check_float(op, "from", from);
  check_shape(op, "to", to, from.rows, from.cols);
}

void check_moved_rows(const char* op, const char* from_name, const Tensor& from, const char* to_name, const Tensor& to) {
  check_float(op, from_name, from);
  check_shape(op, to_name, to, to.rows, from.cols);
}

void check_scatter_add(const Tensor& to, const Tensor& from) {
  check_moved_rows("scatter_add_rows", "from", from, "to", to);
}

void check_column_sum(const Tensor& to, const Tensor& from) {
  check_float("column_sum", "from", from);
  check_f32("column_sum", "to", to);
  check_shape("column_sum", "to", to, 1, from.cols);
}

void check_norm(const char* op, const Tensor& x, const Tensor& weight, int groups, const Tensor& rstd) {
  check_float(op, "x", x);
  check(groups >= 1 && x.cols % groups == 0, ErrorCode::invalid_argument, op, ": ", x.cols, " columns are not ", groups, " equal groups");
  check_shape(op, "weight", weight, 1, x.cols / groups);
  if (rstd) {
    check_f32(op, "rstd", rstd);
    check_shape(op, "rstd", rstd, x.rows, groups);
  }
}

void check_norm_forward(const Tensor& y, const Tensor& x, const Tensor& weight, int groups, const Tensor& rstd, const Tensor& copy_x) {
  check_norm("rms_norm", x, weight, groups, rstd);
  check_shape("rms_norm", "y", y, x.rows, x.cols);
  if (copy_x) check_shape("rms_norm", "copy_x", copy_x, x.rows, x.cols);
}

void check_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                         int groups) {
  const char* op = "rms_norm_backward";
  check_norm(op, x, weight, groups, rstd);
  check(static_cast<bool>(rstd), ErrorCode::invalid_argument, op, ": rstd is missing");
  check_shape(op, "dy", dy, x.rows, x.cols);
  check_shape(op, "dx", dx, x.rows, x.cols);
  if (!dweight) return;
  check_f32(op, "dweight", dweight);
  check_shape(op, "dweight", dweight, 1, x.cols / groups);
}

void check_rope(const Tensor& x, int head_dim, const Tensor& cos_sin, const int32_t* positions) {
  check_float("rope", "x", x);
  check_f32("rope", "cos_sin", cos_sin);
  check(head_dim >= 2 && head_dim % 2 == 0 && x.cols % head_dim == 0, ErrorCode::invalid_argument, "rope: ", x.cols,
        " columns are not heads of an even dimension ", head_dim);
  check(cos_sin.cols == head_dim, ErrorCode::invalid_argument, "rope: cos_sin has ", cos_sin.cols, " columns, expected ", head_dim);
  for (int64_t i = 0; i < x.rows; ++i) {
    check(positions[i] >= 0 && positions[i] < cos_sin.rows, ErrorCode::invalid_argument, "rope: position ", positions[i], " is not below ",
          cos_sin.rows);
  }
}

void check_swiglu(const Tensor& out, const Tensor& gate_up) {
  check_float("swiglu", "gate_up", gate_up);
  check_shape("swiglu", "gate_up", gate_up, out.rows, 2 * out.cols);
  check_float("swiglu", "out", out);
}

void check_swiglu_backward(const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up, const Tensor& out) {
  check_float("swiglu_backward", "dout", dout);
  check_shape("swiglu_backward", "gate_up", gate_up, dout.rows, 2 * dout.cols);
  check_shape("swiglu_backward", "dgate_up", dgate_up, dout.rows, 2 * dout.cols);
  if (!out) return;
  check_float("swiglu_backward", "out", out);
  check_shape("swiglu_backward", "out", out, dout.rows, dout.cols);
}

void check_attention(const char* op, const AttentionArgs& a) {
  check(a.head_dim >= 1 && a.n_kv_heads >= 1 && a.n_heads >= 1 && a.n_heads % a.n_kv_heads == 0, ErrorCode::invalid_argument, op, ": ",
        a.n_heads, " heads of ", a.head_dim, " cannot share ", a.n_kv_heads, " key/value heads");
  const int64_t q_width = static_cast<int64_t>(a.n_heads) * a.head_dim, kv_width = static_cast<int64_t>(a.n_kv_heads) * a.head_dim;
  check_shape(op, "q", a.q, a.q.rows, q_width);
  check_shape(op, "k", a.k, a.k.rows, kv_width);
  check_shape(op, "v", a.v, a.k.rows, kv_width);
  check_shape(op, "out", a.out, a.q.rows, q_width);
  if (a.lse) {
    check_f32(op, "lse", a.lse);
    check_shape(op, "lse", a.lse, a.q.rows, a.n_heads);
  }
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    check(s.row >= 0 && s.length >= 0 && s.row + static_cast<int64_t>(s.length) <= a.q.rows && s.first_span >= 0 && s.n_spans >= 0 &&
              s.first_span + static_cast<int64_t>(s.n_spans) <= a.n_spans,
          ErrorCode::invalid_argument, op, ": segment ", i, " leaves the ", a.q.rows, " rows or the ", a.n_spans, " spans");
  }
  for (int64_t i = 0; i < a.n_spans; ++i) {
    const KeySpan& s = a.spans[i];
    check(s.row >= 0 && s.length >= 0 && s.row + static_cast<int64_t>(s.length) <= a.k.rows, ErrorCode::invalid_argument, op, ": span ", i,
          " leaves the ", a.k.rows, " rows of keys");
  }
}

void check_attention_backward(const AttentionBackwardArgs& args) {
  const char* op = "attention_backward";
  const AttentionArgs& a = args.forward;
  check_attention(op, a);
  check(static_cast<bool>(a.lse), ErrorCode::invalid_argument, op, ": lse is missing");
  check_shape(op, "dout", args.dout, a.q.rows, a.q.cols);
  check_shape(op, "dq", args.dq, a.q.rows, a.q.cols);
  check_shape(op, "dk", args.dk, a.k.rows, a.k.cols);
  check_shape(op, "dv", args.dv, a.v.rows, a.v.cols);
}

void check_logprob(const char* op, const LinearLogprobArgs& a) {
  check_float(op, "h", a.h);
  const int64_t vocab = a.packed_w ? a.packed_w->n : a.w.rows;
  if (!a.packed_w || a.w) check_shape(op, "w", a.w, vocab, a.h.cols);
  check(!a.packed_w || a.packed_w->k == a.h.cols, ErrorCode::invalid_argument, op, ": packed_w has ", a.packed_w ? a.packed_w->k : 0,
        " columns, expected ", a.h.cols);
  if (a.keep_logits) {
    check_f32(op, "keep_logits", a.keep_logits);
    check_shape(op, "keep_logits", a.keep_logits, a.h.rows, vocab);
  }
  for (int64_t i = 0; i < a.h.rows; ++i) {
    check(a.targets[i] >= 0 && a.targets[i] < vocab, ErrorCode::invalid_argument, op, ": target ", a.targets[i],
          " is not in a vocabulary of ", vocab);
  }
}

void check_logprob_backward(const LinearLogprobBackwardArgs& a) {
  const char* op = "linear_logprob_backward";
  const LinearLogprobArgs& f = a.forward;
  check_logprob(op, f);
  check(static_cast<bool>(f.w), ErrorCode::invalid_argument, op, ": w is missing");
  check_shape(op, "dh", a.dh, f.h.rows, f.h.cols);
  if (!a.dw) return;
  check_shape(op, "dw", a.dw, f.w.rows, f.w.cols);
}

void check_preference_loss(const PreferenceLossArgs& a) {
  check(a.n == 0 || (a.pairs && a.logps && a.sums), ErrorCode::invalid_argument, "preference_loss: pairs, logps or sums are missing");
  for (int64_t i = 0; i < a.n; ++i) {
    check(a.pairs[i].first >= 0 && a.pairs[i].chosen > 0 && a.pairs[i].rejected > 0, ErrorCode::invalid_argument, "preference_loss: pair ", i, " has ",
          a.pairs[i].chosen, " and ", a.pairs[i].rejected, " rows from ", a.pairs[i].first, ", expected at least one each");
  }
}

void check_choose_tokens(const Tensor& logits, const TokenChoice* choices, int64_t n) {
  check(logits.dtype == DType::f32, ErrorCode::invalid_argument, "choose_tokens: logits are ", dtype_name(logits.dtype), ", expected f32");
  for (int64_t i = 0; i < n; ++i) {
    check(choices[i].row >= 0 && choices[i].row < logits.rows, ErrorCode::invalid_argument, "choose_tokens: choice ", i, " is from row ", choices[i].row,
          ", expected one of ", logits.rows, " rows");
  }
  check(n == 0 || logits.cols > 0, ErrorCode::invalid_argument, "choose_tokens: logits of no tokens");
}

void fail_logits(int64_t row, float highest) {
  fail(ErrorCode::internal, "the model's logits are not finite (", std::isnan(highest) ? "NaN" : highest > 0 ? "inf" : "all -inf", " in row ", row, ")");
}

void check_sum_of_squares(const Tensor& x) {
  check_float("sum_of_squares", "x", x);
  check(x.contiguous(), ErrorCode::invalid_argument, "sum_of_squares: x has gaps between its rows, expected none");
}

void check_adamw(const AdamWArgs& a) {
  check(a.dtype == DType::f32 || (a.dtype == DType::bf16 && a.remainder), ErrorCode::invalid_argument, "adamw: the weight is ",
        dtype_name(a.dtype), ", expected f32, or bf16 with a remainder");
  check(a.grad_dtype == DType::f32 || a.grad_dtype == DType::bf16, ErrorCode::invalid_argument, "adamw: the gradient is ",
        dtype_name(a.grad_dtype), ", expected f32 or bf16");
  check(a.moments != Moments::coded || (a.m_scales && a.v_scales), ErrorCode::invalid_argument, "adamw: coded moments need scales, found none");
  check(!a.moments_on_host || (a.moment_piece > 0 && a.moment_piece % kMomentBlock == 0), ErrorCode::invalid_argument, "adamw: pieces of ", a.moment_piece,
        " moments, expected a multiple of ", kMomentBlock);
}

}  // namespace rlhi::ops
