// The one header that includes napi.h, and how errors cross the border.
#pragma once

// A worker that is being terminated can no longer be thrown at; that is no reason to take the process down.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <exception>
#include <new>
#include <string>

#include "base/error.h"

namespace rlhi::bindings {

// An error on its way between threads: what lib/engine/addon.ts calls NativeErrorCode, and the text.
struct Failure {
  std::string code, message;
};

// The model or trainer was closed before the call.
class ClosedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The failure that the exception being handled stands for. Call inside a catch block; never throws anything but bad_alloc.
Failure current_failure();

// An Error with `code`.
Napi::Error to_js_error(Napi::Env env, const Failure& failure);

// f(), with the engine's exceptions as JavaScript errors.
template <class F>
auto with_js_errors(Napi::Env env, F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, current_failure());
  }
}

// f() returns a promise; what it throws becomes a rejection, so that a method either always throws or always rejects.
template <class F>
Napi::Value as_promise(Napi::Env env, F&& f) {
  try {
    return with_js_errors(env, std::forward<F>(f));
  } catch (const Napi::Error& e) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(e.Value());
    return deferred.Promise();
  }
}

}  // namespace rlhi::bindings
