// ggufMetadata of the contract.
#pragma once
#include "js.h"

namespace rlhi::bindings {

Napi::Value gguf_metadata(const Napi::CallbackInfo& info);

}  // namespace rlhi::bindings
