// Checkpoints: taken on a session's worker and, on a GPU, written while it goes on.
#pragma once
#include "task.h"

namespace rlhi::bindings {

struct Save {
  BackgroundWriter::Kind kind;
  std::function<DeferredWrite(const Engine& engine, const std::atomic<bool>* abort)> take;  // null where there is no room for a copy
  std::function<void(const Engine& engine)> write;               // all of it at once
};

// Queues it; a promise of undefined, settled when the files are there. `on_taken` (or undefined) is called when the worker goes on to
// its next work. On the CPU, whose plan of memory leaves no room for a copy, and where there is none, that is when they are written.
Napi::Value start_save(Napi::Env env, const std::shared_ptr<Session>& session, Napi::Value on_taken, Save save);

}  // namespace rlhi::bindings
