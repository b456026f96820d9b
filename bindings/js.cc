#include "js.h"

namespace rlhi::bindings {

Failure current_failure() {
  try {
    throw;
  } catch (const Error& e) {
    return {error_code_name(e.code()), e.what()};
  } catch (const ClosedError& e) {
    return {"ERR_CLOSED", e.what()};
  } catch (const std::bad_alloc&) {
    return {error_code_name(ErrorCode::out_of_memory), "out of memory"};
  } catch (const std::exception& e) {
    return {error_code_name(ErrorCode::internal), e.what()};
  } catch (...) {
    return {error_code_name(ErrorCode::internal), "an unknown error"};
  }
}

Napi::Error to_js_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  return error;
}

}  // namespace rlhi::bindings
