#include "measure.h"

#include "model/speed.h"
#include "ops/cpu/peak.h"
#include "ops/device_limits.h"
#include "options.h"

namespace rlhi::bindings {
namespace {

constexpr int64_t kMaxRepeats = 1 << 20, kMaxSide = 1 << 20;

// `work` on a thread of its own; it returns the Finish.
Napi::Value measure(const Napi::CallbackInfo& info, std::function<Finish()> work) {
  AddonState& state = AddonState::of(info.Env());
  return state.start(info.Env(), state.new_session(), {{}, info.Env().Undefined()},
                     [work = std::move(work)](TaskLine&) { return work(); });
}

Finish number(double value) {
  return [value](Napi::Env env, Task&) { return Napi::Number::New(env, value); };
}

Napi::Array to_numbers(Napi::Env env, const std::vector<double>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, values[i]);
  return array;
}

Napi::Value measure_peak_flops(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const int threads = static_cast<int>(to_integer(info[0], "threads", 0, kMaxThreads));
    const DType dtype = to_dtype(info[1], "dtype");
    return measure(info, [threads, dtype] { return number(ops::measure_matrix_peak(dtype, ops::default_isa(), threads)); });
  });
}

Napi::Value measure_read_bandwidth(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const int threads = static_cast<int>(to_integer(info[0], "threads", 0, kMaxThreads));
    return measure(info, [threads] { return number(ops::measure_read_bandwidth(threads)); });
  });
}

Napi::Value measure_device(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const std::string name = to_text(info[0], "device");
    const DType dtype = to_dtype(info[1], "dtype");
    return measure(info, [=]() -> Finish {
      return [limits = ops::measure_device(*ops::open_device({name}), dtype)](Napi::Env env, Task&) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("matrixFlops", limits.matrix_flops);
        result.Set("copyBytesPerS", limits.copy_bytes);
        return result;
      };
    });
  });
}

ops::GemmForm form_from_name(const Fields& fields) {
  const std::string name = fields.string("form");
  if (name == "nt") return ops::GemmForm::nt;
  if (name == "nn") return ops::GemmForm::nn;
  check(name == "tn", ErrorCode::invalid_argument, fields.path("form"), ": expected \"nt\", \"nn\" or \"tn\", found \"", name, "\"");
  return ops::GemmForm::tn;
}

Napi::Value measure_gemm(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const Fields fields(info[0], "product");
    ProductShape s;
    s.form = form_from_name(fields);
    s.m = fields.integer("m", 1, kMaxSide), s.n = fields.integer("n", 1, kMaxSide), s.k = fields.integer("k", 1, kMaxSide);
    s.dtype = fields.dtype("dtype"), s.out = fields.dtype("out");
    s.accumulate = fields.get("accumulate").ToBoolean(), s.packed = fields.get("packed").ToBoolean();
    const ops::DeviceOptions device = to_device(info[1], info[2]);
    const int64_t repeats = to_integer(info[3], "repeats", 1, kMaxRepeats);
    return measure(info, [=]() -> Finish {
      return [seconds = product_seconds(s, device, repeats)](Napi::Env env, Task&) -> Napi::Value { return to_numbers(env, seconds); };
    });
  });
}

Napi::Value measure_layer(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const ModelConfig config = config_of(to_text(info[0], "path"));
    const DType dtype = to_dtype(info[1], "dtype");
    constexpr int64_t kMaxTokens = 1 << 20;
    const Fields fields(info[2], "pairs");
    const int64_t pairs = fields.integer("count", 1, kMaxTokens);
    const int64_t prompt = fields.integer("prompt", 1, kMaxTokens), answer = fields.integer("answer", 1, kMaxTokens);
    const ops::DeviceOptions device = to_device(info[3], info[4]);
    const int64_t repeats = to_integer(info[5], "repeats", 1, kMaxRepeats);
    return measure(info, [=]() -> Finish {
      return [speed = layer_speed(config, dtype, pairs, prompt, answer, device, repeats)](Napi::Env env, Task&) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("forwardSeconds", to_numbers(env, speed.forward_seconds));
        result.Set("backwardSeconds", to_numbers(env, speed.backward_seconds));
        result.Set("gradientNorm", speed.gradient_norm);
        return result;
      };
    });
  });
}

}  // namespace

void define_measurements(Napi::Env env, Napi::Object exports) {
  exports.Set("measurePeakFlops", Napi::Function::New<measure_peak_flops>(env, "measurePeakFlops"));
  exports.Set("measureReadBandwidth", Napi::Function::New<measure_read_bandwidth>(env, "measureReadBandwidth"));
  exports.Set("measureDevice", Napi::Function::New<measure_device>(env, "measureDevice"));
  exports.Set("measureGemm", Napi::Function::New<measure_gemm>(env, "measureGemm"));
  exports.Set("measureLayer", Napi::Function::New<measure_layer>(env, "measureLayer"));
}

}  // namespace rlhi::bindings
