// Option objects of the contract as the engine's plain structs.
#pragma once
#include <vector>

#include "columns.h"
#include "fields.h"
#include "session.h"

namespace rlhi::bindings {

constexpr int64_t kMaxThreads = 4096;
ops::DeviceOptions to_device(const Napi::Value& name, const Napi::Value& threads);  // threads count where it is the CPU
LoadRequest read_load_request(const Fields& options);
TrainOptions read_train_options(Napi::Value options);
void set_for_gpu(TrainOptions& options);  // what a training on a GPU, and its plan, has otherwise than one on the CPU
bool needs_references(const TrainOptions& options);
std::vector<GenerateRequest> read_generate_requests(Napi::Value requests, const TokenLimits& limits);

// What ModelShape of the contract names, into `object`.
void set_shape(Napi::Object object, const ModelConfig& config);
Napi::Object plan_to_js(Napi::Env env, const MemoryPlan& plan);

}  // namespace rlhi::bindings
