#include "system.h"

#include "base/system.h"
#include "base/version.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/device.h"
#include "options.h"

namespace rlhi::bindings {
namespace {

Napi::Array to_strings(Napi::Env env, const std::vector<std::string>& strings) {
  Napi::Array array = Napi::Array::New(env, strings.size());
  for (uint32_t i = 0; i < strings.size(); ++i) array.Set(i, strings[i]);
  return array;
}

Napi::Value system_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return with_js_errors(env, [&]() -> Napi::Value {
    const ops::CpuFeatures& cpu = ops::cpu_features();
    const std::pair<const char*, bool> known[] = {
      {"avx2", cpu.avx2}, {"fma", cpu.fma}, {"f16c", cpu.f16c}, {"avx512f", cpu.avx512f}, {"avx512bw", cpu.avx512bw}, {"avx512vl", cpu.avx512vl},
      {"avx512dq", cpu.avx512dq}, {"avx512_bf16", cpu.avx512_bf16}, {"avx512_fp16", cpu.avx512_fp16}, {"amx_tile", cpu.amx_tile}, {"amx_bf16", cpu.amx_bf16}};
    std::vector<std::string> features, isas;
    for (const auto& [name, has] : known)
      if (has) features.push_back(name);
    for (const ops::CpuIsa isa : ops::available_isas()) isas.push_back(ops::isa_name(isa));
    Napi::Object result = Napi::Object::New(env);
    result.Set("cpuModel", cpu.model_name);
    result.Set("logicalCores", cpu.logical_cores);
    result.Set("features", to_strings(env, features));
    result.Set("isas", to_strings(env, isas));
    result.Set("defaultIsa", ops::isa_name(ops::default_isa()));
    result.Set("memoryBytes", static_cast<double>(total_memory_bytes()));
    result.Set("availableMemoryBytes", static_cast<double>(available_memory_bytes()));
    result.Set("addonVersion", kVersion);
    result.Set("compiler", __VERSION__);
    return result;
  });
}

// What a model on a GPU would find here; looks for the driver, so it is not part of systemInfo.
Napi::Value cuda_report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return with_js_errors(env, [&]() -> Napi::Value {
    const ops::CudaReport report = ops::find_cuda();
    Napi::Object result = Napi::Object::New(env);
    result.Set("library", report.library);
    result.Set("devices", to_strings(env, report.devices));
    result.Set("cublasLt", report.cublaslt);
    result.Set("missing", report.missing);
    return result;
  });
}

Napi::Value plan_training_of(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&]() -> Napi::Value {
    const std::string path = to_text(info[0], "path");
    const DType dtype = to_dtype(info[1], "dtype");
    TrainOptions options = read_train_options(info[2]);
    const std::string device = to_text(info[3], "device");
    ops::check_device_name(device);
    options.threads = device == "cpu" ? ops::cpu_features().logical_cores : 1;
    if (device != "cpu") set_for_gpu(options);
    else if (!ops::keeps_logits(ops::default_isa(), dtype)) options.kept_logits_bytes = 0;
    return plan_to_js(info.Env(), plan_training(config_of(path), dtype, options));
  });
}

// What a model opened on this device now could take.
Napi::Value available_memory(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&]() -> Napi::Value {
    const auto device = ops::open_device({to_text(info[0], "device")});
    return Napi::Number::New(info.Env(), static_cast<double>(device->table().available_bytes(device->handle())));
  });
}

// The dimensions of a model; nothing is loaded.
Napi::Value model_shape(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return with_js_errors(env, [&]() -> Napi::Value {
    Napi::Object shape = Napi::Object::New(env);
    set_shape(shape, config_of(to_text(info[0], "path")));
    return shape;
  });
}

}  // namespace

void define_system(Napi::Env env, Napi::Object exports) {
  exports.Set("systemInfo", Napi::Function::New<system_info>(env, "systemInfo"));
  exports.Set("cudaReport", Napi::Function::New<cuda_report>(env, "cudaReport"));
  exports.Set("availableMemory", Napi::Function::New<available_memory>(env, "availableMemory"));
  exports.Set("planTraining", Napi::Function::New<plan_training_of>(env, "planTraining"));
  exports.Set("modelShape", Napi::Function::New<model_shape>(env, "modelShape"));
}

}  // namespace rlhi::bindings
