// optimizer.safetensors: AdamW's moments, the master weights' remainder and the step count.
#pragma once
#include <string>

#include "ops/device_reader.h"
#include "train/adamw.h"

namespace rlhi {

// A tensor a parameter and kind: exp_avg.NAME and exp_avg_sq.NAME (F32 or BF16) and, for bf16 weights, remainder.NAME (I16), in the
// parameters' checkpoint shapes; metadata "step" and "dtype". Written under a temporary name, then renamed. Throws io.
void save_optimizer_state(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done, const ops::Table& ops,
                          ops::Backend* backend);
// The same in two halves: takes the state as it is, and returns what writes the file. Null where there is no room for a copy.
// `abort` is polled while it is taken: throws aborted.
DeferredWrite take_optimizer_state(const std::string& dir, const Weights& weights, const AdamW& adamw, int64_t steps_done, const ops::Table& ops,
                                   ops::Backend* backend, const std::atomic<bool>* abort = nullptr);
// Returns the step count. Throws io, or invalid_file naming the tensor where the state is of another shape or dtype;
// `adamw` is then as before.
int64_t load_optimizer_state(const std::string& dir, const Weights& weights, AdamW& adamw, const ops::Table& ops, ops::Backend* backend);

}  // namespace rlhi
