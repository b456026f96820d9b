#include "fields.h"

#include <cmath>
#include <cstring>

namespace rlhi::bindings {
namespace {

const char* array_kind(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array: return "Int8Array";
    case napi_uint8_array: return "Uint8Array";
    case napi_uint8_clamped_array: return "Uint8ClampedArray";
    case napi_int16_array: return "Int16Array";
    case napi_uint16_array: return "Uint16Array";
    case napi_int32_array: return "Int32Array";
    case napi_uint32_array: return "Uint32Array";
    case napi_float32_array: return "Float32Array";
    case napi_float64_array: return "Float64Array";
    case napi_bigint64_array: return "BigInt64Array";
    case napi_biguint64_array: return "BigUint64Array";
    default: return "a typed array of another kind";
  }
}

template <class T>
constexpr napi_typedarray_type kArrayType = napi_uint8_array;
template <>
constexpr napi_typedarray_type kArrayType<int32_t> = napi_int32_array;
template <>
constexpr napi_typedarray_type kArrayType<float> = napi_float32_array;
template <>
constexpr napi_typedarray_type kArrayType<uint64_t> = napi_biguint64_array;

[[noreturn]] void wrong(const std::string& where, const std::string& expected, Napi::Value found) {
  fail(ErrorCode::invalid_argument, where, ": expected ", expected, ", found ", describe(found));
}

}  // namespace

std::string describe(Napi::Value value) {
  if (value.IsEmpty() || value.IsUndefined()) return "undefined";
  if (value.IsNull()) return "null";
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value() ? "true" : "false";
  if (value.IsNumber()) return concat(value.As<Napi::Number>().DoubleValue());
  if (value.IsString()) return concat("\"", value.As<Napi::String>().Utf8Value().substr(0, 60), "\"");
  if (value.IsBigInt()) return "a bigint";
  if (value.IsFunction()) return "a function";
  if (value.IsTypedArray()) return array_kind(value.As<Napi::TypedArray>().TypedArrayType());
  if (value.IsArray()) return "an array";
  return value.IsObject() ? "an object" : "a symbol";
}

double to_number(Napi::Value value, const std::string& where, double low, double high) {
  const std::string expected = concat("a number from ", low, " to ", high);
  if (!value.IsNumber()) wrong(where, expected, value);
  const double x = value.As<Napi::Number>().DoubleValue();
  if (!(x >= low && x <= high)) wrong(where, expected, value);
  return x;
}

int64_t to_integer(Napi::Value value, const std::string& where, int64_t low, int64_t high) {
  const std::string expected = concat("a whole number from ", low, " to ", high);
  if (!value.IsNumber()) wrong(where, expected, value);
  const double x = value.As<Napi::Number>().DoubleValue();
  if (!(x >= static_cast<double>(low) && x <= static_cast<double>(high)) || x != std::floor(x)) wrong(where, expected, value);
  return static_cast<int64_t>(x);
}

std::string to_text(Napi::Value value, const std::string& where) {
  if (!value.IsString()) wrong(where, "a string", value);
  return value.As<Napi::String>().Utf8Value();
}

DType to_dtype(Napi::Value value, const std::string& where) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  wrong(where, "\"f32\" or \"bf16\"", value);
}

Napi::Value to_function(Napi::Value value, const std::string& where) {
  if (!value.IsFunction()) wrong(where, "a function", value);
  return value;
}

Napi::Value to_optional_function(Napi::Value value, const std::string& where) {
  return value.IsUndefined() || value.IsNull() ? value.Env().Undefined() : to_function(value, where);
}

Napi::Value to_optional_signal(Napi::Value value, const std::string& where) {
  if (value.IsUndefined() || value.IsNull()) return value.Env().Undefined();
  const bool ok = value.IsObject() && value.As<Napi::Object>().Get("addEventListener").IsFunction() &&
                  value.As<Napi::Object>().Get("removeEventListener").IsFunction();
  if (!ok) wrong(where, "an AbortSignal", value);
  return value;
}

template <class T>
std::vector<T> copy_elements(Napi::Value value, const std::string& where) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != kArrayType<T>) wrong(where, array_kind(kArrayType<T>), value);
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  const napi_status status = napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr);
  check(status == napi_ok, ErrorCode::invalid_argument, where, ": the array cannot be read");
  std::vector<T> copy(data == nullptr ? 0 : length);
  if (!copy.empty()) std::memcpy(copy.data(), data, copy.size() * sizeof(T));
  return copy;
}
template std::vector<int32_t> copy_elements<int32_t>(Napi::Value, const std::string&);
template std::vector<float> copy_elements<float>(Napi::Value, const std::string&);
template std::vector<uint8_t> copy_elements<uint8_t>(Napi::Value, const std::string&);
template std::vector<uint64_t> copy_elements<uint64_t>(Napi::Value, const std::string&);

Fields::Fields(Napi::Value value, std::string where) : where_(std::move(where)) {
  if (!value.IsObject()) wrong(where_.empty() ? "options" : where_, "an object", value);
  object_ = value.As<Napi::Object>();
}

double Fields::number(const char* name, double low, double high) const { return to_number(get(name), path(name), low, high); }
int64_t Fields::integer(const char* name, int64_t low, int64_t high) const { return to_integer(get(name), path(name), low, high); }
int64_t Fields::integer_or(const char* name, int64_t low, int64_t high, int64_t fallback) const {
  const Napi::Value value = get(name);
  return value.IsUndefined() ? fallback : to_integer(value, path(name), low, high);
}
std::string Fields::string(const char* name) const { return to_text(get(name), path(name)); }
std::string Fields::string_or(const char* name, const std::string& fallback) const {
  return get(name).IsUndefined() ? fallback : string(name);
}
DType Fields::dtype(const char* name) const { return to_dtype(get(name), path(name)); }
Napi::Value Fields::optional_function(const char* name) const { return to_optional_function(get(name), path(name)); }

}  // namespace rlhi::bindings
