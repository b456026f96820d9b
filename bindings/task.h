// A promise and the job that settles it. The JavaScript side of a task (promise, callbacks, signal) never leaves its thread:
// messages from the worker carry the task's number and plain data only.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "js.h"
#include "session.h"

namespace rlhi::bindings {

struct Task {
  explicit Task(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise::Deferred deferred;
  std::shared_ptr<Session> session;
  std::shared_ptr<JobControl> control = std::make_shared<JobControl>();
  std::vector<Napi::FunctionReference> callbacks;  // empty references where the caller gave none
  Napi::ObjectReference signal;                    // AbortSignal, or empty
  Napi::FunctionReference abort_listener;
  std::optional<Napi::Error> callback_error;       // a callback threw: the promise is rejected with it
};

// Both run on the JavaScript thread; they may hold plain data only, because a dead environment's are destroyed unrun.
using Finish = std::function<Napi::Value(Napi::Env env, Task& task)>;
using Event = std::function<void(Napi::Env env, Task& task)>;

// Settles a task whose work has returned. From any thread, once, and before the session's worker has ended.
class Completion;

// A job's view of its task, on the worker.
class TaskLine {
 public:
  TaskLine(uint64_t id, std::shared_ptr<JobControl> control, napi_threadsafe_function function)
      : id_(id), control_(std::move(control)), function_(function) {}
  const std::atomic<bool>& abort() const { return control_->abort(); }
  void emit(Event event);              // waits for a credit; throws aborted
  void emit_if_idle(Event event);      // drops the event where no credit is left
  // The task stays open when its work has returned (what it returns is dropped then; a throw settles it all the same).
  Completion complete_later();

 private:
  friend class AddonState;
  friend class Completion;
  void post(Event event, std::optional<Finish> finish, std::optional<Failure> failure) const;

  uint64_t id_;
  std::shared_ptr<JobControl> control_;
  napi_threadsafe_function function_;
  bool later_ = false;
};

class Completion {
 public:
  explicit Completion(TaskLine line) : line_(std::move(line)) {}
  void resolve(Finish finish) const { line_.post({}, std::move(finish), std::nullopt); }
  void reject(Failure failure) const { line_.post({}, std::nullopt, std::move(failure)); }

 private:
  TaskLine line_;
};

using Work = std::function<Finish(TaskLine& line)>;

struct TaskInputs {
  std::vector<Napi::Value> callbacks;  // function or undefined
  Napi::Value signal;                  // AbortSignal or undefined
  bool beside_steps = false;           // the work may begin while steps of the trainer are under way
};

// Everything of one environment (the main thread or one worker thread): there is no other state.
class AddonState {
 public:
  explicit AddonState(Napi::Env env);
  static AddonState& of(Napi::Env env) { return *env.GetInstanceData<AddonState>(); }

  // A session that the environment's end stops.
  std::shared_ptr<Session> new_session();
  // Queues `work` on the session's worker; a promise of what its Finish returns. Rejects at once where the signal is aborted already.
  // The process stays alive until it is settled.
  Napi::Value start(Napi::Env env, const std::shared_ptr<Session>& session, const TaskInputs& inputs, Work work);

  Napi::FunctionReference model_class, trainer_class;

 private:
  struct Message;
  static void on_message(napi_env env, napi_value function, void* context, void* data);
  static void on_environment_end(void* state);
  void listen(Napi::Env env, uint64_t id, Task& task, Napi::Object signal);
  void abort(Napi::Env env, uint64_t id);
  void settle(Napi::Env env, uint64_t id, const Finish* finish, const Failure* failure);
  void stop_listening(Task& task);

  napi_threadsafe_function function_ = nullptr;
  std::unordered_map<uint64_t, std::unique_ptr<Task>> tasks_;
  uint64_t next_id_ = 1;
  std::shared_ptr<std::vector<Session*>> sessions_ = std::make_shared<std::vector<Session*>>();
  friend class TaskLine;
};

}  // namespace rlhi::bindings
