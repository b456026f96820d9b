#include "ops/operation_cost.h"

#include <algorithm>
#include <vector>

namespace rlhi::ops {
namespace {

constexpr double kFloat = 4;

double bytes_of(const Tensor& t) { return t.data ? static_cast<double>(t.bytes()) : 0; }
double elements_of(const Tensor& t) { return static_cast<double>(t.size()); }
double size_of(const Tensor& t) { return static_cast<double>(dtype_size(t.dtype)); }

template <class... Tensors>
OperationCost moved(const Tensors&... tensors) {
  return {0, (bytes_of(tensors) + ...)};
}

// Pairs of a query and a key it sees, one head's.
double pairs_of(const AttentionArgs& a) {
  double pairs = 0;
  for (int64_t i = 0; i < a.n_segments; ++i) {
    const QuerySegment& s = a.segments[i];
    for (int64_t row = 0; row < s.length; ++row) {
      const int64_t position = s.position + row;
      for (int j = 0; j < s.n_spans; ++j) {
        const KeySpan& span = a.spans[s.first_span + j];
        const int64_t first = a.window > 0 ? std::max<int64_t>(span.position, position - a.window + 1) : span.position;
        pairs += static_cast<double>(std::max<int64_t>(0, std::min<int64_t>(span.position + span.length, position + 1) - first));
      }
    }
  }
  return pairs;
}

// Rows of keys that some span holds.
double key_rows_of(const AttentionArgs& a) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (int64_t i = 0; i < a.n_spans; ++i) runs.emplace_back(a.spans[i].row, a.spans[i].row + static_cast<int64_t>(a.spans[i].length));
  std::sort(runs.begin(), runs.end());
  int64_t rows = 0, end = 0;
  for (const auto& [from, to] : runs) {
    rows += std::max<int64_t>(0, to - std::max(from, end));
    end = std::max(end, to);
  }
  return static_cast<double>(rows);
}

OperationCost attention_cost(const AttentionArgs& a, double flops_a_pair) {
  const double keys = key_rows_of(a) * a.n_kv_heads * a.head_dim * (size_of(a.k) + size_of(a.v));
  return {flops_a_pair * pairs_of(a) * a.n_heads * a.head_dim, bytes_of(a.q) + bytes_of(a.out) + bytes_of(a.lse) + keys};
}

struct Head {
  double rows, vocab, dim, weight_bytes;
  double product() const { return 2 * rows * vocab * dim; }
};
Head head_of(const LinearLogprobArgs& a) {
  const double rows = static_cast<double>(a.h.rows), dim = static_cast<double>(a.h.cols),
               vocab = static_cast<double>(a.packed_w ? a.packed_w->n : a.w.rows);
  return {rows, vocab, dim, vocab * dim * static_cast<double>(dtype_size(a.packed_w ? a.packed_w->dtype : a.w.dtype))};
}

}  // namespace

OperationCost cost_of(Operation<&Table::zero>, void*, size_t bytes) { return {0, static_cast<double>(bytes)}; }
OperationCost cost_of(Operation<&Table::copy>, const Tensor& to, const Tensor& from) { return moved(to, from); }
OperationCost cost_of(Operation<&Table::gather_rows>, const Tensor& to, const Tensor& from, const int32_t*) {
  return {0, elements_of(to) * (size_of(to) + size_of(from))};
}
OperationCost cost_of(Operation<&Table::scatter_rows>, const Tensor& to, const Tensor& from, const int32_t*) {
  return {0, elements_of(from) * (size_of(to) + size_of(from))};
}
OperationCost cost_of(Operation<&Table::scatter_add_rows>, const Tensor&, const Tensor& from, const int32_t*) {
  return {0, elements_of(from) * (2 * kFloat + size_of(from))};
}
OperationCost cost_of(Operation<&Table::add>, const Tensor& to, const Tensor& from) { return moved(to, to, from); }
OperationCost cost_of(Operation<&Table::column_sum>, const Tensor& to, const Tensor& from) { return moved(to, to, from); }
OperationCost cost_of(Operation<&Table::pack_weight>, const PackedWeight*, const Tensor& w) { return moved(w, w); }
OperationCost cost_of(Operation<&Table::gemm>, const GemmArgs& g) {
  const double m = static_cast<double>(g.c.rows), n = static_cast<double>(g.swiglu_c ? 2 * g.c.cols : g.c.cols);
  const double k = static_cast<double>(g.form == GemmForm::tn ? g.a.rows : g.a.cols);
  const double b = n * k * static_cast<double>(dtype_size(g.packed_b ? g.packed_b->dtype : g.b.dtype));
  return {2 * m * n * k, bytes_of(g.a) + b + (g.accumulate ? 2 : 1) * bytes_of(g.c) + bytes_of(g.bias)};
}
OperationCost cost_of(Operation<&Table::embedding>, const Tensor& out, const Tensor& table, const int32_t*) {
  return {0, elements_of(out) * (size_of(out) + size_of(table))};
}
OperationCost cost_of(Operation<&Table::rms_norm>, const Tensor& y, const Tensor& x, const Tensor& weight, float, int,
                      const Tensor& rstd, const Tensor& copy_x) {
  return moved(y, x, weight, rstd, copy_x);
}
OperationCost cost_of(Operation<&Table::rms_norm_backward>, const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                      const Tensor& weight, const Tensor& rstd, int, bool accumulate) {
  return moved(accumulate ? dx : Tensor(), dx, dweight, dweight, dy, x, weight, rstd);
}
OperationCost cost_of(Operation<&Table::rope>, const Tensor& x, int head_dim, const Tensor&, const int32_t*, int) {
  return {0, 2 * bytes_of(x) + static_cast<double>(x.rows * head_dim) * kFloat};
}
OperationCost cost_of(Operation<&Table::attention>, const AttentionArgs& a) { return attention_cost(a, 4); }
OperationCost cost_of(Operation<&Table::attention_backward>, const AttentionBackwardArgs& a) {
  OperationCost cost = attention_cost(a.forward, 10);
  cost.bytes += moved(a.dout, a.dq, a.dk, a.dv).bytes;
  return cost;
}
OperationCost cost_of(Operation<&Table::swiglu>, const Tensor& out, const Tensor& gate_up) { return moved(out, gate_up); }
OperationCost cost_of(Operation<&Table::swiglu_backward>, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up, const Tensor& out) {
  return moved(dgate_up, dout, gate_up, out);
}
OperationCost cost_of(Operation<&Table::linear_logprob>, const LinearLogprobArgs& a) {
  const Head head = head_of(a);
  return {head.product(), bytes_of(a.h) + head.weight_bytes + bytes_of(a.keep_logits)};
}
OperationCost cost_of(Operation<&Table::linear_logprob_backward>, const LinearLogprobBackwardArgs& a) {
  const Head head = head_of(a.forward);
  return {head.product() * ((a.dw ? 2 : 1) + (a.forward.keep_logits ? 0 : 1)),
          bytes_of(a.forward.h) + head.weight_bytes + 2 * bytes_of(a.forward.keep_logits) + bytes_of(a.dh) +
              (a.accumulate ? 2 : 1) * bytes_of(a.dw)};
}
OperationCost cost_of(Operation<&Table::preference_loss>, const PreferenceLossArgs& a) {
  double rows = 0;
  for (int64_t i = 0; i < a.n; ++i) rows += a.pairs[i].chosen + a.pairs[i].rejected;
  return {0, rows * (a.dlogps ? 2 : 1) * sizeof(float) + static_cast<double>(a.n) * sizeof(PairSums)};
}
OperationCost cost_of(Operation<&Table::choose_tokens>, const Tensor& logits, const TokenChoice*, int64_t, const ChosenToken*) { return moved(logits); }
OperationCost cost_of(Operation<&Table::adamw>, const AdamWArgs& a) {
  // Four bytes of weight (bf16 has its remainder) and two moments are read and written, the gradient read.
  return {0, static_cast<double>(a.n) * static_cast<double>(2 * 4 + 4 * moment_size(a.moments) + dtype_size(a.grad_dtype))};
}
OperationCost cost_of(Operation<&Table::sum_of_squares>, const Tensor& x, const double*) { return moved(x); }
OperationCost cost_of(Operation<&Table::clip_factor>, const double*, int64_t n, double, const float*) { return {0, static_cast<double>(n) * sizeof(double)}; }

namespace {

// A function of the table that adds its call's cost to the OperationCost that stands in for the backend.
template <auto kOperation>
struct Counting {
  template <class R, class... Args>
  static void set(R (*&function)(Backend*, Args...)) {
    function = [](Backend* sum, Args... args) {
      auto& cost = *reinterpret_cast<OperationCost*>(sum);
      const OperationCost call = cost_of(Operation<kOperation>(), args...);
      cost.flops += call.flops, cost.bytes += call.bytes;
      return R();
    };
  }
};

}  // namespace

OperationCost cost_of_calls(void (*work)(const Table&, Backend*, const void*), const void* context) {
  Table table = {};
  table.abi_version = kAbiVersion;
  table.backend_name = "cost";
#define RLHI_COUNTING(operation) Counting<&Table::operation>::set(table.operation);
  RLHI_OPERATIONS(RLHI_COUNTING)
#undef RLHI_COUNTING
  OperationCost cost;
  work(table, reinterpret_cast<Backend*>(&cost), context);
  return cost;
}

}  // namespace rlhi::ops
