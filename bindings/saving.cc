#include "saving.h"

namespace rlhi::bindings {
namespace {

Napi::Value nothing(Napi::Env env, Task&) { return env.Undefined(); }

// On the writer's thread.
void finish_save(DeferredWrite& write, const std::atomic<bool>& abort, const Completion& completion) {
  std::optional<Failure> failure;
  try {
    write(abort);
  } catch (...) {
    failure = current_failure();
  }
  write = nullptr;                     // the copy's memory is free when anyone hears of it
  if (failure) completion.reject(*std::move(failure));
  else completion.resolve(nothing);
}

}  // namespace

Napi::Value start_save(Napi::Env env, const std::shared_ptr<Session>& session, Napi::Value on_taken, Save save) {
  const TaskInputs inputs{{on_taken}, env.Undefined()};
  const bool tells = on_taken.IsFunction();
  return AddonState::of(env).start(env, session, inputs, [&engine = session->engine, save = std::move(save), tells](TaskLine& line) -> Finish {
    engine.writer.wait_for(save.kind);
    DeferredWrite write = engine.backend->is_cpu() ? nullptr : save.take(engine, &line.abort());
    if (!write) save.write(engine);
    if (tells) line.emit([](Napi::Env, Task& task) { task.callbacks[0].Call({}); });
    if (!write) return nothing;
    const Completion completion = line.complete_later();
    engine.writer.submit(save.kind, [write = std::move(write), completion](const std::atomic<bool>& abort) mutable { finish_save(write, abort, completion); });
    return nothing;
  });
}

}  // namespace rlhi::bindings
