// Reading JavaScript values into plain ones, with the name of the field in every error.
#pragma once
#include <string>
#include <vector>

#include "base/dtype.h"
#include "js.h"

namespace rlhi::bindings {

// Text for error messages: what kind of value this is.
std::string describe(Napi::Value value);

// The fields of one object argument. Every getter throws invalid_argument: where, expected, found.
class Fields {
 public:
  Fields(Napi::Value value, std::string where);
  double number(const char* name, double low, double high) const;          // low <= x <= high; NaN never
  int64_t integer(const char* name, int64_t low, int64_t high) const;
  int64_t integer_or(const char* name, int64_t low, int64_t high, int64_t fallback) const;  // fallback where undefined
  std::string string(const char* name) const;
  std::string string_or(const char* name, const std::string& fallback) const;  // fallback where undefined
  DType dtype(const char* name) const;
  Napi::Value optional_function(const char* name) const;                   // or undefined
  Napi::Value get(const char* name) const { return object_.Get(name); }
  Napi::Env env() const { return object_.Env(); }
  std::string path(const char* name) const { return where_.empty() ? name : where_ + "." + name; }

 private:
  Napi::Object object_;
  std::string where_;
};

double to_number(Napi::Value value, const std::string& where, double low, double high);
int64_t to_integer(Napi::Value value, const std::string& where, int64_t low, int64_t high);
std::string to_text(Napi::Value value, const std::string& where);
DType to_dtype(Napi::Value value, const std::string& where);
Napi::Value to_function(Napi::Value value, const std::string& where);      // a function
Napi::Value to_optional_function(Napi::Value value, const std::string& where);
Napi::Value to_optional_signal(Napi::Value value, const std::string& where);  // an AbortSignal

// A copy of a typed array's elements, made at once. T: int32_t, float, uint8_t or uint64_t, and exactly the array of that
// kind. Detached buffers have no elements.
template <class T>
std::vector<T> copy_elements(Napi::Value value, const std::string& where);

}  // namespace rlhi::bindings
