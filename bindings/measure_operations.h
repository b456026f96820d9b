// measureOperations: how long each operation takes at a model's shapes.
#pragma once
#include "task.h"

namespace rlhi::bindings {

Napi::Value measure_operations(const Napi::CallbackInfo& info);

}  // namespace rlhi::bindings
