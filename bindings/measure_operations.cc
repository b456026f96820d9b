#include "measure_operations.h"

#include "model/operation_speed.h"
#include "options.h"

namespace rlhi::bindings {
namespace {

Napi::Array to_js(Napi::Env env, const std::vector<OperationSpeed>& speeds) {
  Napi::Array array = Napi::Array::New(env, speeds.size());
  for (uint32_t i = 0; i < speeds.size(); ++i) {
    const OperationSpeed& s = speeds[i];
    Napi::Object row = Napi::Object::New(env);
    row.Set("operation", s.operation), row.Set("part", s.part), row.Set("shape", s.shape);
    row.Set("seconds", s.seconds), row.Set("flops", s.flops), row.Set("bytes", s.bytes);
    array.Set(i, row);
  }
  return array;
}

}  // namespace

Napi::Value measure_operations(const Napi::CallbackInfo& info) {
  return as_promise(info.Env(), [&] {
    const ModelConfig config = config_of(to_text(info[0], "path"));
    const DType dtype = to_dtype(info[1], "dtype");
    const int64_t tokens = to_integer(info[2], "tokens", 4, 1 << 20);
    const ops::DeviceOptions device = to_device(info[3], info[4]);
    const int64_t repeats = to_integer(info[5], "repeats", 1, 1 << 20);
    check(tokens <= config.max_position, ErrorCode::invalid_argument, "tokens: expected at most the model's context of ",
          config.max_position, ", found ", tokens);
    AddonState& state = AddonState::of(info.Env());
    return state.start(info.Env(), state.new_session(), {{}, info.Env().Undefined()}, [=](TaskLine&) -> Finish {
      return [speeds = operation_speeds(config, dtype, tokens, device, repeats)](Napi::Env env, Task&) -> Napi::Value {
        return to_js(env, speeds);
      };
    });
  });
}

}  // namespace rlhi::bindings
