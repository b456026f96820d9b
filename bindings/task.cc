#include "task.h"

#include <algorithm>
#include <functional>
#include <ranges>

namespace rlhi::bindings {

struct AddonState::Message {
  uint64_t id = 0;
  Event event;
  std::optional<Finish> finish;
  std::optional<Failure> failure;
};

// ---- worker side -----------------------------------------------------------------------------------------------------
void TaskLine::post(Event event, std::optional<Finish> finish, std::optional<Failure> failure) const {
  auto message = std::make_unique<AddonState::Message>(AddonState::Message{id_, std::move(event), std::move(finish), std::move(failure)});
  // The queue is unlimited and the environment's end joins this thread first, so this only fails while closing.
  if (napi_call_threadsafe_function(function_, message.get(), napi_tsfn_nonblocking) == napi_ok) message.release();
}

void TaskLine::emit(Event event) {
  control_->take_credit();
  post(std::move(event), std::nullopt, std::nullopt);
}

void TaskLine::emit_if_idle(Event event) {
  if (control_->try_take_credit()) post(std::move(event), std::nullopt, std::nullopt);
}

Completion TaskLine::complete_later() {
  later_ = true;
  return Completion(*this);
}

// ---- environment -----------------------------------------------------------------------------------------------------
AddonState::AddonState(Napi::Env env) {
  napi_value name;
  napi_status status = napi_create_string_utf8(env, "rlhi-native", NAPI_AUTO_LENGTH, &name);
  if (status == napi_ok) {
    status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, on_message, &function_);
  }
  // Cleanup hooks run last in, first out: this one, added after the function's own, joins the workers while it still works.
  if (status == napi_ok) status = napi_unref_threadsafe_function(env, function_);
  if (status == napi_ok) status = napi_add_env_cleanup_hook(env, on_environment_end, this);
  if (status != napi_ok) throw Napi::Error::New(env, "the engine could not attach itself to this environment");
}

void AddonState::on_environment_end(void* data) {
  auto* state = static_cast<AddonState*>(data);
  const std::vector<Session*> sessions = *state->sessions_;
  for (Session* session : sessions) session->stop();
  state->tasks_.clear();
}

std::shared_ptr<Session> AddonState::new_session() {
  // The list outlives the state, because objects that hold sessions may be finalized after it.
  std::shared_ptr<Session> session(new Session, [list = sessions_](Session* s) {
    std::erase(*list, s);
    delete s;
  });
  sessions_->push_back(session.get());
  return session;
}

// ---- tasks -----------------------------------------------------------------------------------------------------------
Napi::Value AddonState::start(Napi::Env env, const std::shared_ptr<Session>& session, const TaskInputs& inputs, Work work) {
  auto task = std::make_unique<Task>(env);
  task->session = session;
  const Napi::Promise promise = task->deferred.Promise();
  for (const Napi::Value& callback : inputs.callbacks) {
    task->callbacks.push_back(callback.IsFunction() ? Napi::Persistent(callback.As<Napi::Function>()) : Napi::FunctionReference());
  }
  const uint64_t id = next_id_++;
  if (inputs.signal.IsObject()) {
    const auto signal = inputs.signal.As<Napi::Object>();
    if (signal.Get("aborted").ToBoolean()) {
      Napi::Error error = to_js_error(env, {error_code_name(ErrorCode::aborted), "aborted before it began"});
      error.Set("cause", signal.Get("reason"));
      task->deferred.Reject(error.Value());
      return promise;
    }
    listen(env, id, *task, signal);
  }
  if (tasks_.empty()) napi_ref_threadsafe_function(env, function_);
  ++session->tasks;
  const std::shared_ptr<JobControl> control = task->control;
  tasks_.emplace(id, std::move(task));
  session->worker.submit({id, control, [&engine = session->engine, beside = inputs.beside_steps, line = TaskLine(id, control, function_),
                                        work = std::move(work)]() mutable {
    if (!beside) engine.end_steps();
    try {
      check(!line.abort(), ErrorCode::aborted, "aborted");
      Finish finish = work(line);
      if (!line.later_) line.post({}, std::move(finish), std::nullopt);
    } catch (...) {
      line.post({}, std::nullopt, current_failure());
    }
  }});
  return promise;
}

void AddonState::on_message(napi_env raw_env, napi_value, void* context, void* data) {
  const std::unique_ptr<Message> message(static_cast<Message*>(data));
  if (raw_env == nullptr) return;      // the environment is going; its tasks went with it
  auto& state = *static_cast<AddonState*>(context);
  const Napi::Env env(raw_env);
  const Napi::HandleScope scope(env);
  try {
    if (!message->event) {
      state.settle(env, message->id, message->finish ? &*message->finish : nullptr, message->failure ? &*message->failure : nullptr);
      return;
    }
    const auto found = state.tasks_.find(message->id);
    if (found == state.tasks_.end()) return;
    Task& task = *found->second;       // the callback may start others, and the map grow
    const std::shared_ptr<JobControl> control = task.control;
    try {
      if (!task.callback_error) message->event(env, task);
    } catch (const Napi::Error& error) {
      // The callback cannot have ended the task: only the worker's last message does.
      task.callback_error = error;
      control->request_abort();
    }
    control->return_credit();
  } catch (const std::exception&) {
    // A worker that is being terminated runs no more JavaScript, and there is nobody left to tell.
  }
}

void AddonState::settle(Napi::Env env, uint64_t id, const Finish* finish, const Failure* failure) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return;
  const std::unique_ptr<Task> task = std::move(found->second);
  tasks_.erase(found);
  if (tasks_.empty()) napi_unref_threadsafe_function(env, function_);
  --task->session->tasks;
  try {
    stop_listening(*task);
  } catch (const Napi::Error&) {
    // A signal of the caller's own making: its trouble must not leave the promise open.
  }
  if (task->callback_error) {
    task->deferred.Reject(task->callback_error->Value());
  } else if (failure) {
    Napi::Error error = to_js_error(env, *failure);
    if (!task->signal.IsEmpty() && failure->code == error_code_name(ErrorCode::aborted)) {
      try {
        error.Set("cause", task->signal.Value().Get("reason"));
      } catch (const Napi::Error&) {
      }
    }
    task->deferred.Reject(error.Value());
  } else {
    try {
      task->deferred.Resolve(with_js_errors(env, [&] { return (*finish)(env, *task); }));
    } catch (const Napi::Error& error) {
      task->deferred.Reject(error.Value());
    }
  }
}

// ---- AbortSignal -----------------------------------------------------------------------------------------------------
void AddonState::listen(Napi::Env env, uint64_t id, Task& task, Napi::Object signal) {
  task.signal = Napi::Persistent(signal);
  task.abort_listener = Napi::Persistent(Napi::Function::New(env, [id](const Napi::CallbackInfo& info) { of(info.Env()).abort(info.Env(), id); }));
  signal.Get("addEventListener").As<Napi::Function>().Call(signal, {Napi::String::New(env, "abort"), task.abort_listener.Value()});
}

void AddonState::stop_listening(Task& task) {
  if (task.signal.IsEmpty()) return;
  const Napi::Object signal = task.signal.Value();
  signal.Get("removeEventListener").As<Napi::Function>().Call(signal, {Napi::String::New(signal.Env(), "abort"), task.abort_listener.Value()});
}

void AddonState::abort(Napi::Env env, uint64_t id) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end() || found->second->control->abort()) return;
  // Every task of the signal, the last one first: while one that runs is ending, none that waits behind it may begin.
  const Napi::Object signal = found->second->signal.Value();
  std::vector<uint64_t> ids;
  for (const auto& [other, task] : tasks_) {
    if (!task->signal.IsEmpty() && task->signal.Value().StrictEquals(signal)) ids.push_back(other);
  }
  std::ranges::sort(ids, std::greater());
  std::vector<uint64_t> never_begun;
  for (const uint64_t each : ids) {
    const Task& task = *tasks_.at(each);
    task.control->request_abort();
    if (task.session->worker.cancel(each)) never_begun.push_back(each);  // one that runs will see the flag
  }
  const Failure failure{error_code_name(ErrorCode::aborted), "aborted before it began"};
  for (const uint64_t each : never_begun | std::views::reverse) settle(env, each, nullptr, &failure);
}

}  // namespace rlhi::bindings
