// The table's operations, each telling the backend's trace what it did, where there is a trace.
#pragma once
#include "ops/cpu/backend.h"

namespace rlhi::ops {

// Arithmetic and memory an operation needs at least: FLOPs of its products, and each tensor it names once.
struct OperationCost {
  double flops = 0, bytes = 0;
  void add(const Tensor& t) { bytes += static_cast<double>(t.data ? t.bytes() : 0); }
  void add(const GemmArgs& g);
  void add(const AttentionArgs& a) { add_attention(a, 4); }
  void add(const AttentionBackwardArgs& a);
  void add(const LinearLogprobArgs& a);
  void add(const LinearLogprobBackwardArgs& a);
  void add(const AdamWArgs& a);
  template <class T>
  void add(const T&) {}

 private:
  void add_attention(const AttentionArgs& a, double flops_a_pair);
};

template <auto kOperation, const char* const& kName>
struct Traced;

template <class R, class... Args, R (*kOperation)(Backend*, Args...), const char* const& kName>
struct Traced<kOperation, kName> {
  static R run(Backend* backend, Args... args) {
    if (!backend->trace) return kOperation(backend, args...);
    OperationCost cost;
    (cost.add(args), ...);
    const OperationSpan span(*backend, kName, cost);
    return kOperation(backend, args...);
  }

 private:
  // From here to the end of the call; the pool's threads put what they do under the same name.
  class OperationSpan {
   public:
    OperationSpan(Backend& backend, const char* name, const OperationCost& cost) : backend_(backend), name_(name), cost_(cost), begin_(Trace::now()) {
      backend.pool.set_trace(backend.trace.get(), name);
    }
    ~OperationSpan() {
      backend_.pool.set_trace(nullptr, nullptr);
      backend_.trace->add(0, name_, begin_, Trace::now(), cost_.flops, cost_.bytes);
    }
    OperationSpan(const OperationSpan&) = delete;
    OperationSpan& operator=(const OperationSpan&) = delete;

   private:
    Backend& backend_;
    const char* name_;
    OperationCost cost_;
    Trace::Time begin_;
  };
};

}  // namespace rlhi::ops
