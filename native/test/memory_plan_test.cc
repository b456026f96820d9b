// Which plan is taken where the options leave it open, and what is said where none fits.
#include "test/check.h"
#include "train/training_plan.h"

using namespace rlhi;
using namespace rlhi::test;

namespace {

constexpr DType B = DType::bf16;
constexpr size_t kMiB = size_t{1} << 20;

TrainOptions gpu_options(ops::Moments moments, int64_t budget) {
  TrainOptions o;
  o.device_has_own_memory = true;
  o.moments = moments, o.max_tokens_per_micro_batch = o.max_pair_tokens = budget;
  return o;
}

MemoryPlan explicit_plan(const ModelConfig& config, TrainOptions o, Recompute recompute, MomentMemory memory) {
  o.recompute = recompute, o.moment_memory = memory, o.memory_limit_bytes = o.host_memory_bytes = 0;
  return plan_training(config, B, o);
}
MemoryPlan plan_within(const ModelConfig& config, TrainOptions o, size_t limit, int64_t host_memory = 0) {
  o.memory_limit_bytes = static_cast<int64_t>(limit), o.host_memory_bytes = host_memory;
  return plan_training(config, B, o);
}
size_t entry(const MemoryPlan& plan, const std::string& name) {
  for (const PlanEntry& e : plan.entries)
    if (e.name == name) return e.bytes;
  return 0;
}
void expect_choice(const MemoryPlan& plan, Recompute recompute, MomentMemory memory) {
  EXPECT_EQ(std::string(recompute_name(plan.recompute)), std::string(recompute_name(recompute)));
  EXPECT_EQ(std::string(moment_memory_name(plan.moment_memory)), std::string(moment_memory_name(memory)));
}

void expect_says(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) throw std::runtime_error(concat("expected \"", part, "\" in: ", text));
}

}  // namespace

TEST("plan: moments in host memory leave their staging and their scales on the device") {
  const ModelConfig c = named_shape("llama-3.1-8b");
  const auto n = static_cast<size_t>(parameter_layout(c).elements);
  for (const ops::Moments moments : {ops::Moments::f32, ops::Moments::bf16, ops::Moments::coded}) {
    const TrainOptions o = gpu_options(moments, 2048);
    const MemoryPlan device = explicit_plan(c, o, Recompute::norms, MomentMemory::device), host = explicit_plan(c, o, Recompute::norms, MomentMemory::host);
    const size_t size = static_cast<size_t>(moment_size(moments)), scales = moments == ops::Moments::coded ? 8 * ((n + 255) / 256) : 0;
    EXPECT_EQ(device.host_bytes, size_t{0});
    EXPECT_EQ(entry(device, "moments"), 2 * n * size + scales);
    EXPECT_EQ(host.host_bytes, 2 * n * size);
    EXPECT_EQ(entry(host, "moments"), size_t{0});
    EXPECT_EQ(entry(host, "moment scales"), scales);
    EXPECT_EQ(entry(host, "moment staging"), 3 * 2 * 4 * kMiB * size);   // three pieces of 4 Mi elements, of two moments
    EXPECT_EQ(device.total - entry(device, "moments"), host.total - entry(host, "moment scales") - entry(host, "moment staging"));
  }
}

TEST("plan: what is left open is the cheapest that fits: moments go to the host before layers are computed again") {
  const ModelConfig c = named_shape("llama-3.1-8b");
  const TrainOptions o = gpu_options(ops::Moments::f32, 2048);
  const auto total = [&](Recompute recompute, MomentMemory memory) { return explicit_plan(c, o, recompute, memory).total; };
  const size_t norms = total(Recompute::norms, MomentMemory::device), norms_host = total(Recompute::norms, MomentMemory::host),
               layers = total(Recompute::layers, MomentMemory::device), layers_host = total(Recompute::layers, MomentMemory::host);
  EXPECT(norms > layers && layers > norms_host && norms_host > layers_host);
  expect_choice(plan_within(c, o, 0), Recompute::norms, MomentMemory::device);
  expect_choice(plan_within(c, o, norms), Recompute::norms, MomentMemory::device);
  expect_choice(plan_within(c, o, norms - 1), Recompute::norms, MomentMemory::host);
  expect_choice(plan_within(c, o, layers), Recompute::norms, MomentMemory::host);
  expect_choice(plan_within(c, o, norms_host), Recompute::norms, MomentMemory::host);
  expect_choice(plan_within(c, o, norms_host - 1), Recompute::layers, MomentMemory::host);
  expect_choice(plan_within(c, o, 1), Recompute::layers, MomentMemory::host);

  const auto moments = static_cast<int64_t>(plan_within(c, o, norms - 1).host_bytes);
  expect_choice(plan_within(c, o, norms - 1, moments), Recompute::norms, MomentMemory::host);
  expect_choice(plan_within(c, o, norms - 1, moments - 1), Recompute::layers, MomentMemory::device);

  // Small moments beside many tokens: layers on the device take less than norms with moments elsewhere.
  const TrainOptions coded = gpu_options(ops::Moments::coded, 32768);
  const size_t coded_layers = explicit_plan(c, coded, Recompute::layers, MomentMemory::device).total;
  EXPECT(coded_layers < explicit_plan(c, coded, Recompute::norms, MomentMemory::host).total);
  expect_choice(plan_within(c, coded, coded_layers), Recompute::layers, MomentMemory::device);
  expect_choice(plan_within(c, coded, coded_layers - 1), Recompute::layers, MomentMemory::host);

  TrainOptions asked = o;
  asked.recompute = Recompute::layers;
  expect_choice(plan_within(c, asked, norms), Recompute::layers, MomentMemory::device);
  expect_choice(plan_within(c, asked, layers - 1), Recompute::layers, MomentMemory::host);
  asked = o, asked.moment_memory = MomentMemory::device;
  expect_choice(plan_within(c, asked, norms - 1), Recompute::layers, MomentMemory::device);
  asked.moment_memory = MomentMemory::host;
  expect_choice(plan_within(c, asked, norms), Recompute::norms, MomentMemory::host);
}

TEST("plan: an 8B model with f32 gradients and moments fits into 80 GB beside a host that holds its moments") {
  const MemoryPlan plan = plan_within(named_shape("llama-3.1-8b"), gpu_options(ops::Moments::f32, 2048), size_t{78} << 30);
  EXPECT(plan.moment_memory == MomentMemory::host);
  EXPECT(plan.total <= size_t{78} << 30);
  expect_says(plan.moment_memory_reason, "with moments on the device the plan would take");
}

TEST("plan: a CPU has one memory, wherever moments are asked for") {
  const ModelConfig c = named_shape("smollm2-135m");
  TrainOptions o = gpu_options(ops::Moments::f32, 512);
  o.device_has_own_memory = false;
  for (const MomentMemory memory : {MomentMemory::automatic, MomentMemory::device, MomentMemory::host}) {
    const MemoryPlan plan = explicit_plan(c, o, Recompute::norms, memory);
    EXPECT(plan.moment_memory == MomentMemory::device);
    EXPECT_EQ(plan.host_bytes, size_t{0});
    EXPECT_EQ(plan.total, explicit_plan(c, o, Recompute::norms, MomentMemory::automatic).total);
    EXPECT_EQ(plan.moment_memory_reason, std::string("a CPU has one memory"));
  }
}

TEST("plan: what does not fit is refused with what would, and host memory that is not there with its sizes") {
  const ModelConfig c = named_shape("llama-3.1-8b");
  TrainOptions o = gpu_options(ops::Moments::f32, 2048);
  const size_t norms_host = explicit_plan(c, o, Recompute::norms, MomentMemory::host).total, layers_host = explicit_plan(c, o, Recompute::layers, MomentMemory::host).total;
  const auto refusal = [&](size_t limit, int64_t host_memory) {
    o.memory_limit_bytes = static_cast<int64_t>(limit), o.host_memory_bytes = host_memory;
    try {
      check_plan_fits(c, B, o);
    } catch (const Error& e) {
      EXPECT(e.code() == ErrorCode::out_of_memory);
      return std::string(e.what());
    }
    return std::string("fits");
  };
  o.recompute = Recompute::norms, o.moment_memory = MomentMemory::device;
  expect_says(refusal(norms_host, 0), "; moment_memory host would fit");
  expect_says(refusal(norms_host, 0), "moments on the device");
  expect_says(refusal(layers_host, 0), "; recompute layers and moment_memory host would fit");
  expect_says(refusal(norms_host, 1 << 20), "; no max_tokens_per_micro_batch would fit");
  expect_says(refusal(norms_host, 1 << 20), "moment_memory host would fit if the host had 61267 MiB for the moments, but it has 1 MiB");
  o.moment_memory = MomentMemory::host;
  EXPECT_EQ(refusal(norms_host, 0), std::string("fits"));
  expect_says(refusal(norms_host, 1 << 20), "moments in host memory need 61267 MiB, and the host has 1 MiB");
  expect_says(refusal(norms_host - 1, 0), "; recompute layers would fit");
}

TEST("plan: moments' memory is given by name") {
  for (const char* name : {"auto", "device", "host"}) EXPECT_EQ(std::string(moment_memory_name(moment_memory_from_name(name))), std::string(name));
  EXPECT_ERROR(moment_memory_from_name("disk"), ErrorCode::invalid_argument, "moment_memory: expected auto, device or host, found \"disk\"");
}
