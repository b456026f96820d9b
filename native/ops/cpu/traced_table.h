// The table's operations, each telling the backend's trace what it did, where there is a trace.
#pragma once
#include "ops/cpu/backend.h"
#include "ops/operation_cost.h"

namespace rlhi::ops {

template <auto kMember, auto kOperation, const char* const& kName>
struct Traced;

template <auto kMember, class R, class... Args, R (*kOperation)(Backend*, Args...), const char* const& kName>
struct Traced<kMember, kOperation, kName> {
  static R run(Backend* backend, Args... args) {
    if (!backend->trace) return kOperation(backend, args...);
    const OperationSpan span(*backend, kName, cost_of(Operation<kMember>(), args...));
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
