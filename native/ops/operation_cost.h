// What each operation of the table needs at least, from its arguments: the one source of FLOPs and bytes for traces and measurements.
#pragma once
#include "ops/ops.h"

namespace rlhi::ops {

// The table's operations that work on data: all but those of memory and of order (alloc to repeated, zero apart), packed_bytes and keeps_logits.
#define RLHI_OPERATIONS(X)                                                                                                        \
  X(zero)                                                                                                                         \
  X(copy) X(gather_rows) X(scatter_rows) X(scatter_add_rows) X(add) X(column_sum) X(pack_weight) X(gemm) X(embedding) X(rms_norm) \
      X(rms_norm_backward) X(rope) X(attention) X(attention_backward) X(swiglu) X(swiglu_backward) X(linear_logprob)              \
          X(linear_logprob_backward) X(preference_loss) X(choose_tokens) X(adamw) X(sum_of_squares) X(clip_factor)

struct OperationCost {
  double flops = 0;  // of its products
  double bytes = 0;  // read and written: each tensor once, twice where it is added to, of gathered ones the rows used
};

template <auto kOperation>
struct Operation {};

// For every operation of RLHI_OPERATIONS, with its own arguments: OperationCost cost_of(Operation<&Table::gemm>, const GemmArgs&) and so on.
OperationCost cost_of(Operation<&Table::zero>, void* data, size_t bytes);
OperationCost cost_of(Operation<&Table::copy>, const Tensor& to, const Tensor& from);
OperationCost cost_of(Operation<&Table::gather_rows>, const Tensor& to, const Tensor& from, const int32_t* index);
OperationCost cost_of(Operation<&Table::scatter_rows>, const Tensor& to, const Tensor& from, const int32_t* index);
OperationCost cost_of(Operation<&Table::scatter_add_rows>, const Tensor& to, const Tensor& from, const int32_t* index);
OperationCost cost_of(Operation<&Table::add>, const Tensor& to, const Tensor& from);
OperationCost cost_of(Operation<&Table::column_sum>, const Tensor& to, const Tensor& from);
OperationCost cost_of(Operation<&Table::pack_weight>, const PackedWeight* to, const Tensor& w);
OperationCost cost_of(Operation<&Table::gemm>, const GemmArgs& args);
OperationCost cost_of(Operation<&Table::embedding>, const Tensor& out, const Tensor& table, const int32_t* ids);
OperationCost cost_of(Operation<&Table::rms_norm>, const Tensor& y, const Tensor& x, const Tensor& weight, float eps, int groups,
                      const Tensor& rstd, const Tensor& copy_x);
OperationCost cost_of(Operation<&Table::rms_norm_backward>, const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                      const Tensor& weight, const Tensor& rstd, int groups, bool accumulate);
OperationCost cost_of(Operation<&Table::rope>, const Tensor& x, int head_dim, const Tensor& cos_sin, const int32_t* positions,
                      int direction);
OperationCost cost_of(Operation<&Table::attention>, const AttentionArgs& args);
OperationCost cost_of(Operation<&Table::attention_backward>, const AttentionBackwardArgs& args);
OperationCost cost_of(Operation<&Table::swiglu>, const Tensor& out, const Tensor& gate_up);
OperationCost cost_of(Operation<&Table::swiglu_backward>, const Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up, const Tensor& out);
OperationCost cost_of(Operation<&Table::linear_logprob>, const LinearLogprobArgs& args);
OperationCost cost_of(Operation<&Table::linear_logprob_backward>, const LinearLogprobBackwardArgs& args);
OperationCost cost_of(Operation<&Table::preference_loss>, const PreferenceLossArgs& args);
OperationCost cost_of(Operation<&Table::choose_tokens>, const Tensor& logits, const TokenChoice* choices, int64_t n, const ChosenToken* chosen);
OperationCost cost_of(Operation<&Table::adamw>, const AdamWArgs& args);
OperationCost cost_of(Operation<&Table::sum_of_squares>, const Tensor& x, const double* sum);
OperationCost cost_of(Operation<&Table::clip_factor>, const double* squares, int64_t n, double max_norm, const float* factor);

// The cost of what `work` calls of the table it is given, whose operations compute nothing. It may call RLHI_OPERATIONS only.
OperationCost cost_of_calls(void (*work)(const Table&, Backend*, const void* context), const void* context);
template <class F>
OperationCost cost_of_calls(const F& work) {
  return cost_of_calls([](const Table& ops, Backend* backend, const void* f) { (*static_cast<const F*>(f))(ops, backend); }, &work);
}

}  // namespace rlhi::ops
