// The functions of the contract that measure this machine's CPU.
#pragma once
#include "task.h"

namespace rlhi::bindings {

void define_measurements(Napi::Env env, Napi::Object exports);

}  // namespace rlhi::bindings
