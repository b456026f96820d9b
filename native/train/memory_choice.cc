// Which of the plans that the options allow is taken, and what is said where none fits.
#include <algorithm>

#include "base/system.h"
#include "train/training_plan.h"

namespace rlhi {
namespace {

std::string mib(size_t bytes) { return concat((bytes + (size_t{1} << 20) - 1) >> 20, " MiB"); }

// What the options allow, from the least to the most time a step: moments in host memory cost an update's way over the bus and back,
// layers a second forward of every micro-batch.
std::vector<MemoryChoice> choices(const TrainOptions& o) {
  const std::vector<Recompute> levels = o.recompute ? std::vector{*o.recompute} : std::vector{Recompute::norms, Recompute::layers};
  const std::vector<MomentMemory> memories = !o.device_has_own_memory ? std::vector{MomentMemory::device}
                                             : o.moment_memory != MomentMemory::automatic ? std::vector{o.moment_memory}
                                                                                          : std::vector{MomentMemory::device, MomentMemory::host};
  std::vector<MemoryChoice> all;
  for (const Recompute level : levels)
    for (const MomentMemory memory : memories) all.push_back({level, memory});
  return all;
}

bool host_holds(const MemoryPlan& plan, const TrainOptions& o) {
  return o.host_memory_bytes == 0 || plan.host_bytes <= static_cast<size_t>(o.host_memory_bytes);
}
bool device_holds(const MemoryPlan& plan, const TrainOptions& o) {
  return o.memory_limit_bytes == 0 || plan.total <= static_cast<size_t>(o.memory_limit_bytes);
}

std::string reason(const ModelConfig& config, DType dtype, const TrainOptions& o, const MemoryPlan& plan) {
  if (!o.device_has_own_memory) return "a CPU has one memory";
  if (o.moment_memory != MomentMemory::automatic) return "as the settings say";
  if (o.memory_limit_bytes == 0) return "how much memory the device has is not known";
  const bool on_device = plan.moment_memory == MomentMemory::device;
  const MemoryPlan other = plan_of(config, dtype, o, {plan.recompute, on_device ? MomentMemory::host : MomentMemory::device});
  const auto limit = static_cast<size_t>(o.memory_limit_bytes);
  if (!on_device) return concat("with moments on the device the plan would take ", mib(other.total), " of ", mib(limit));
  if (device_holds(plan, o)) return concat("the plan takes ", mib(plan.total), " of ", mib(limit));
  return concat("the host has ", mib(static_cast<size_t>(o.host_memory_bytes)), " for moments of ", mib(other.host_bytes));
}

size_t total_with_budget(const ModelConfig& config, DType dtype, TrainOptions options, int64_t budget) {
  options.max_tokens_per_micro_batch = budget;
  return plan_training(config, dtype, options).total;
}

// The largest budget whose plan fits, or 0.
int64_t largest_budget(const ModelConfig& config, DType dtype, const TrainOptions& options) {
  int64_t fits = 0, too_large = options.max_tokens_per_micro_batch;
  for (int64_t low = std::max<int64_t>(1, options.max_pair_tokens); low < too_large;) {
    const int64_t middle = low + (too_large - low) / 2;
    if (total_with_budget(config, dtype, options, middle) <= static_cast<size_t>(options.memory_limit_bytes)) fits = middle, low = middle + 1;
    else too_large = middle;
  }
  return fits;
}

// What would fit instead of a plan that does not: other settings, cheapest first, or a smaller budget.
std::string advice(const ModelConfig& config, DType dtype, const TrainOptions& options, const MemoryPlan& plan) {
  std::string short_of;
  const MemoryChoice others[] = {{plan.recompute, MomentMemory::host}, {Recompute::layers, plan.moment_memory}, {Recompute::layers, MomentMemory::host}};
  for (const MemoryChoice& other : others) {
    const bool moves = other.moments != plan.moment_memory, again = other.recompute != plan.recompute;
    if ((!moves && !again) || (moves && !options.device_has_own_memory)) continue;
    const MemoryPlan that = plan_of(config, dtype, options, other);
    if (!device_holds(that, options)) continue;
    const std::string what = concat(again ? "recompute layers" : "", moves && again ? " and " : "", moves ? "moment_memory host" : "");
    if (host_holds(that, options)) return what + " would fit";
    if (short_of.empty()) {
      short_of = concat("; ", what, " would fit if the host had ", mib(that.host_bytes), " for the moments, but it has ",
                        mib(static_cast<size_t>(options.host_memory_bytes)));
    }
  }
  const int64_t budget = largest_budget(config, dtype, options), smallest = std::max<int64_t>(1, options.max_pair_tokens);
  if (budget > 0) return concat("max_tokens_per_micro_batch ", budget, " would fit", short_of);
  return concat("no max_tokens_per_micro_batch would fit: pairs of ", smallest, " tokens need ", mib(total_with_budget(config, dtype, options, smallest)), short_of);
}

}  // namespace

const char* moment_memory_name(MomentMemory memory) {
  return memory == MomentMemory::automatic ? "auto" : memory == MomentMemory::device ? "device" : "host";
}
MomentMemory moment_memory_from_name(const std::string& name) {
  for (const MomentMemory memory : {MomentMemory::automatic, MomentMemory::device, MomentMemory::host}) {
    if (name == moment_memory_name(memory)) return memory;
  }
  fail(ErrorCode::invalid_argument, "moment_memory: expected auto, device or host, found \"", name, "\"");
}

int64_t host_memory_for_moments() {
  const int64_t available = available_memory_bytes(), spare = std::max(available / 8, int64_t{1} << 30);
  return available == 0 ? 0 : std::max<int64_t>(1, available - spare);
}

TrainOptions with_memory_limit(const ModelConfig& config, DType dtype, TrainOptions options, int64_t available) {
  if (options.memory_limit_bytes == 0 && available > 0) options.memory_limit_bytes = available + parameter_layout(config).elements * dtype_size(dtype);
  return options;
}

MemoryPlan plan_training(const ModelConfig& config, DType dtype, const TrainOptions& options) {
  MemoryPlan plan;
  bool planned = false;
  for (const MemoryChoice& choice : choices(options)) {
    MemoryPlan next = plan_of(config, dtype, options, choice);
    if (planned && !host_holds(next, options)) continue;
    plan = std::move(next), planned = true;      // where none fits, what takes the least
    if (device_holds(plan, options) && host_holds(plan, options)) break;
  }
  plan.moment_memory_reason = reason(config, dtype, options, plan);
  return plan;
}

void check_plan_fits(const ModelConfig& config, DType dtype, const TrainOptions& options) {
  const MemoryPlan plan = plan_training(config, dtype, options);
  check(host_holds(plan, options), ErrorCode::out_of_memory, "moments in host memory need ", mib(plan.host_bytes), ", and the host has ",
        mib(static_cast<size_t>(options.host_memory_bytes)), "; moments in bf16 take a half of what f32 takes, in 8bit a quarter");
  if (device_holds(plan, options)) return;
  std::string sizes;
  for (const PlanEntry& e : plan.entries) sizes += concat(sizes.empty() ? "" : ", ", e.name, " ", mib(e.bytes));
  const char* moments = !options.device_has_own_memory ? "" : plan.moment_memory == MomentMemory::host ? ", moments in host memory," : ", moments on the device,";
  fail(ErrorCode::out_of_memory, "training with max_tokens_per_micro_batch ", options.max_tokens_per_micro_batch, " and recompute ",
       recompute_name(plan.recompute), moments, " needs ", mib(plan.total), " (", sizes, ") and may use ",
       mib(static_cast<size_t>(options.memory_limit_bytes)), "; ", advice(config, dtype, options, plan));
}

}  // namespace rlhi
