#include "gguf.h"

#include <algorithm>
#include <limits>

#include "fields.h"
#include "io/gguf.h"

namespace rlhi::bindings {
namespace {

constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;

Napi::Value to_js(Napi::Env env, const io::GgufValue& value);

Napi::Value integer_to_js(Napi::Env env, int64_t x) {
  if (x >= -kSafeInteger && x <= kSafeInteger) return Napi::Number::New(env, static_cast<double>(x));
  return Napi::BigInt::New(env, x);
}
Napi::Value integer_to_js(Napi::Env env, uint64_t x) {
  if (x <= static_cast<uint64_t>(kSafeInteger)) return Napi::Number::New(env, static_cast<double>(x));
  return Napi::BigInt::New(env, x);
}

template <class T, class F>
Napi::Value list_to_js(Napi::Env env, const std::vector<T>& values, F&& convert) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) {
    const Napi::HandleScope scope(env);  // vocabularies have a hundred thousand entries
    array.Set(i, convert(values[i]));
  }
  return array;
}

// Int32Array where all fit.
template <class T>
Napi::Value integers_to_js(Napi::Env env, const std::vector<T>& values, bool booleans) {
  if (booleans) return list_to_js(env, values, [env](T x) { return Napi::Boolean::New(env, x != 0); });
  const bool fit = std::all_of(values.begin(), values.end(), [](T x) { return std::in_range<int32_t>(x); });
  if (!fit) return list_to_js(env, values, [env](T x) { return integer_to_js(env, x); });
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array[i] = static_cast<int32_t>(values[i]);
  return array;
}

Napi::Value reals_to_js(Napi::Env env, const std::vector<double>& values, bool single) {
  if (!single) return list_to_js(env, values, [env](double x) { return Napi::Number::New(env, x); });
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array[i] = static_cast<float>(values[i]);
  return array;
}

Napi::Value to_js(Napi::Env env, const io::GgufValue& value) {
  const bool booleans = value.element == io::GgufType::boolean;
  if (const auto* x = value.get<bool>()) return Napi::Boolean::New(env, *x);
  if (const auto* x = value.get<int64_t>()) return integer_to_js(env, *x);
  if (const auto* x = value.get<uint64_t>()) return integer_to_js(env, *x);
  if (const auto* x = value.get<double>()) return Napi::Number::New(env, *x);
  if (const auto* x = value.get<std::string>()) return Napi::String::New(env, *x);
  if (const auto* x = value.get<std::vector<int64_t>>()) return integers_to_js(env, *x, booleans);
  if (const auto* x = value.get<std::vector<uint64_t>>()) return integers_to_js(env, *x, booleans);
  if (const auto* x = value.get<std::vector<double>>()) return reals_to_js(env, *x, value.element == io::GgufType::f32);
  if (const auto* x = value.get<std::vector<std::string>>()) return list_to_js(env, *x, [env](const std::string& s) { return Napi::String::New(env, s); });
  if (const auto* x = value.get<std::vector<io::GgufValue>>()) return list_to_js(env, *x, [env](const io::GgufValue& v) { return to_js(env, v); });
  return env.Null();
}

}  // namespace

Napi::Value gguf_metadata(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return with_js_errors(env, [&]() -> Napi::Value {
    const io::GgufFile file(to_text(info[0], "path"));
    Napi::Object object = Napi::Object::New(env);
    for (const auto& [key, value] : file.metadata()) object.Set(key, to_js(env, value));
    return object;
  });
}

}  // namespace rlhi::bindings
