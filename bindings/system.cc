#include "system.h"

#include <algorithm>
#include <chrono>

#include "base/system.h"
#include "base/version.h"
#include "model/device_buffer.h"
#include "ops/cpu/peak.h"
#include "ops/device.h"
#include "options.h"

namespace rlhi::bindings {
namespace {

constexpr int64_t kMaxThreads = 4096;

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
    options.threads = ops::cpu_features().logical_cores;
    return plan_to_js(info.Env(), plan_training(config_of(path), dtype, options));
  });
}

// A number measured on a thread of its own.
Napi::Value measure(const Napi::CallbackInfo& info, std::function<double()> work) {
  AddonState& state = AddonState::of(info.Env());
  return state.start(info.Env(), state.new_session(), {{}, info.Env().Undefined()}, [work = std::move(work)](TaskLine&) -> Finish {
    const double value = work();
    return [value](Napi::Env env, Task&) { return Napi::Number::New(env, value); };
  });
}

Napi::Value measure_peak_flops(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const int threads = static_cast<int>(to_integer(info[0], "threads", 0, kMaxThreads));
    const DType dtype = to_dtype(info[1], "dtype");
    return measure(info, [threads, dtype] { return ops::measure_matrix_peak(dtype, ops::default_isa(), threads); });
  });
}

Napi::Value measure_read_bandwidth(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const int threads = static_cast<int>(to_integer(info[0], "threads", 0, kMaxThreads));
    return measure(info, [threads] { return ops::measure_read_bandwidth(threads); });
  });
}

struct GemmShape {
  int64_t m, n, k;
  DType dtype;
  int threads;
  int64_t repeats;
};

double median_gemm_seconds(const GemmShape& s) {
  ops::CpuBackendOptions options;
  options.threads = s.threads;
  ops::CpuBackend cpu(options);
  const ops::Table& ops = cpu.table();
  ops::Backend* backend = cpu.handle();
  const auto filled = [&](int64_t rows, int64_t cols, DType dtype) {
    const auto n = static_cast<size_t>(rows * cols);
    DeviceBuffer buffer(ops, backend, n * static_cast<size_t>(dtype_size(dtype)), "a matrix to measure with");
    for (size_t i = 0; i < n; ++i) {   // small values of both signs: no denormals, no overflow
      const float x = static_cast<float>(static_cast<int>(i * 7919 % 31) - 15) * 0.0625f;
      if (dtype == DType::f32) static_cast<float*>(buffer.data())[i] = x;
      else static_cast<bf16*>(buffer.data())[i] = to_bf16(x);
    }
    return buffer;
  };
  const DeviceBuffer a = filled(s.m, s.k, s.dtype), b = filled(s.n, s.k, s.dtype);
  const DeviceBuffer c(ops, backend, static_cast<size_t>(s.m * s.n) * sizeof(float), "a product");
  const DeviceBuffer packed(ops, backend, ops.packed_bytes(backend, s.dtype, s.n, s.k), "a packed matrix");
  ops::PackedWeight weight;
  weight.data = packed.data();
  ops.pack_weight(backend, &weight, Tensor(b.data(), s.dtype, s.n, s.k));
  ops::GemmArgs args;
  args.a = Tensor(a.data(), s.dtype, s.m, s.k);
  args.c = Tensor(c.data(), DType::f32, s.m, s.n);
  args.packed_b = &weight;
  ops.gemm(backend, args);             // warm
  std::vector<double> seconds;
  for (int64_t i = 0; i < s.repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    ops.gemm(backend, args);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Napi::Value measure_gemm(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    constexpr int64_t kMaxSide = 1 << 20;
    GemmShape s;
    s.m = to_integer(info[0], "m", 1, kMaxSide);
    s.n = to_integer(info[1], "n", 1, kMaxSide);
    s.k = to_integer(info[2], "k", 1, kMaxSide);
    s.dtype = to_dtype(info[3], "dtype");
    s.threads = static_cast<int>(to_integer(info[4], "threads", 0, kMaxThreads));
    s.repeats = to_integer(info[5], "repeats", 1, 1 << 20);
    return measure(info, [s] { return median_gemm_seconds(s); });
  });
}

}  // namespace

void define_system(Napi::Env env, Napi::Object exports) {
  exports.Set("systemInfo", Napi::Function::New<system_info>(env, "systemInfo"));
  exports.Set("cudaReport", Napi::Function::New<cuda_report>(env, "cudaReport"));
  exports.Set("planTraining", Napi::Function::New<plan_training_of>(env, "planTraining"));
  exports.Set("measurePeakFlops", Napi::Function::New<measure_peak_flops>(env, "measurePeakFlops"));
  exports.Set("measureReadBandwidth", Napi::Function::New<measure_read_bandwidth>(env, "measureReadBandwidth"));
  exports.Set("measureGemm", Napi::Function::New<measure_gemm>(env, "measureGemm"));
}

}  // namespace rlhi::bindings
