// NativeModel of lib/engine/addon.ts: a loaded model and the work on it.
#pragma once
#include "columns.h"
#include "task.h"

namespace rlhi::bindings {

class Model : public Napi::ObjectWrap<Model> {
 public:
  static void define(Napi::Env env, AddonState& state);
  // loadModel(options)
  static Napi::Value load(const Napi::CallbackInfo& info);

  explicit Model(const Napi::CallbackInfo& info);  // only from load(): takes the session

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value set_token_bytes(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value create_trainer(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Session& open() const;               // throws ERR_CLOSED
  TokenLimits limits() const;

  std::shared_ptr<Session> session_;
};

}  // namespace rlhi::bindings
