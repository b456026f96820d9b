// What the addon exports; lib/engine/addon.ts is its typed face.
#include "gguf.h"
#include "measure.h"
#include "measure_operations.h"
#include "model.h"
#include "system.h"
#include "trainer.h"

namespace rlhi::bindings {
namespace {

constexpr int kAddonAbi = 9;  // addonAbi in lib/engine/addon.ts

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto state = std::make_unique<AddonState>(env);
  Model::define(env, *state);
  NativeTrainer::define(env, *state);
  env.SetInstanceData(state.release());
  exports.Set("abi", Napi::Number::New(env, kAddonAbi));
  exports.Set("loadModel", Napi::Function::New<&Model::load>(env, "loadModel"));
  exports.Set("ggufMetadata", Napi::Function::New<gguf_metadata>(env, "ggufMetadata"));
  exports.Set("measureOperations", Napi::Function::New<measure_operations>(env, "measureOperations"));
  define_system(env, exports);
  define_measurements(env, exports);
  return exports;
}

}  // namespace
}  // namespace rlhi::bindings

static Napi::Object rlhi_initialize(Napi::Env env, Napi::Object exports) { return rlhi::bindings::initialize(env, exports); }
NODE_API_MODULE(rlhi_native, rlhi_initialize)
