// The functions of the contract that need no model.
#pragma once
#include "task.h"

namespace rlhi::bindings {

void define_system(Napi::Env env, Napi::Object exports);

}  // namespace rlhi::bindings
