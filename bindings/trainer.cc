#include "trainer.h"

#include "options.h"
#include "saving.h"

namespace rlhi::bindings {
namespace {

Napi::Value metrics_to_js(Napi::Env env, const StepMetrics& m) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("step", static_cast<double>(m.step));
  object.Set("loss", m.loss);
  object.Set("grad_norm", m.grad_norm);
  object.Set("learning_rate", m.learning_rate);
  object.Set("rewards/chosen", m.rewards_chosen);
  object.Set("rewards/rejected", m.rewards_rejected);
  object.Set("rewards/margins", m.rewards_margins);
  object.Set("rewards/accuracies", m.rewards_accuracies);
  object.Set("logps/chosen", m.logps_chosen);
  object.Set("logps/rejected", m.logps_rejected);
  object.Set("num_tokens", static_cast<double>(m.num_tokens));
  return object;
}

}  // namespace

void NativeTrainer::define(Napi::Env env, AddonState& state) {
  state.trainer_class = Napi::Persistent(DefineClass(env, "NativeTrainer", {
    InstanceMethod<&NativeTrainer::plan>("plan"),
    InstanceMethod<&NativeTrainer::step>("step"),
    InstanceMethod<&NativeTrainer::accumulate>("accumulate"),
    InstanceMethod<&NativeTrainer::evaluate>("evaluate"),
    InstanceMethod<&NativeTrainer::save_gradients>("saveGradients"),
    InstanceMethod<&NativeTrainer::save_state>("saveState"),
    InstanceMethod<&NativeTrainer::load_state>("loadState"),
    InstanceMethod<&NativeTrainer::steps_done>("stepsDone"),
    InstanceMethod<&NativeTrainer::close>("close"),
  }));
}

NativeTrainer::NativeTrainer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeTrainer>(info) {
  if (!info[0].IsExternal()) throw to_js_error(info.Env(), {error_code_name(ErrorCode::invalid_argument), "trainers are made by model.createTrainer"});
  const Parts& parts = *info[0].As<Napi::External<Parts>>().Data();
  session_ = parts.session;
  facts_ = parts.facts;
}

// A trainer that was forgotten must not keep its memory.
NativeTrainer::~NativeTrainer() {
  if (!session_ || session_->closed || session_->open_trainer != facts_->id) return;
  session_->open_trainer = 0;
  session_->worker.submit({0, std::make_shared<JobControl>(), [&engine = session_->engine] {
    engine.end_steps();
    engine.trainer.reset();
  }});
}

Napi::Value NativeTrainer::create(Napi::Env env, const std::shared_ptr<Session>& session, const TrainOptions& options) {
  check(session->open_trainer == 0, ErrorCode::invalid_argument, "createTrainer: expected a model without an open trainer, found one; close it first");
  auto facts = std::make_shared<TrainerFacts>();
  facts->id = session->open_trainer = session->next_trainer++;
  facts->needs_references = bindings::needs_references(options);
  TrainOptions planned = options;
  planned.threads = session->facts.threads;
  return AddonState::of(env).start(env, session, {{}, env.Undefined()}, [s = session.get(), planned, facts](TaskLine&) -> Finish {
    Engine& engine = s->engine;
    engine.transformer->release_inference_memory();
    engine.generator->release_memory();
    TrainOptions options = planned;
    if (!engine.backend->is_cpu()) set_for_gpu(options);
    std::optional<Failure> failure;
    try {
      engine.trainer = std::make_unique<Trainer>(*engine.weights, *engine.transformer, options, engine.ops(), engine.backend->handle());
      facts->plan = engine.trainer->plan();
    } catch (...) {
      engine.trainer.reset();
      failure = current_failure();
    }
    return [facts, failure](Napi::Env e, Task& task) -> Napi::Value {
      if (failure) {
        task.session->open_trainer = 0;
        throw to_js_error(e, *failure);
      }
      Parts parts{task.session, facts};
      return AddonState::of(e).trainer_class.New({Napi::External<Parts>::New(e, &parts)});
    };
  });
}

Session& NativeTrainer::open() const {
  if (session_->closed) throw ClosedError("the trainer's model was closed");
  if (session_->open_trainer != facts_->id) throw ClosedError("the trainer was closed");
  return *session_;
}

Napi::Value NativeTrainer::plan(const Napi::CallbackInfo& info) { return plan_to_js(info.Env(), facts_->plan); }

Napi::Value NativeTrainer::steps_done(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(facts_->steps_done));
}

Napi::Value NativeTrainer::run(const Napi::CallbackInfo& info, Pass pass) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    Session& session = open();
    const ModelConfig& config = session.facts.config;
    auto pairs = read_pairs(info[0], {config.vocab_size, config.max_position}, facts_->needs_references);
    const TaskInputs inputs{{}, to_optional_signal(info[1], "signal"), pass == &NativeTrainer::begin_step};
    if (inputs.beside_steps) session.weights_changed = true;
    auto work = [&engine = session.engine, facts = facts_, pass, pairs = std::move(pairs)](TaskLine& line) -> Finish {
      engine.generator->release_memory();  // which the trainer's plan does not count
      return pass(engine, facts, pairs, line);
    };
    return AddonState::of(env).start(env, session_, inputs, std::move(work));
  });
}

Finish NativeTrainer::finish_with(const std::shared_ptr<TrainerFacts>& facts, const Engine& engine, const StepMetrics& metrics) {
  return [facts, metrics, steps = engine.trainer->steps_done()](Napi::Env env, Task&) {
    facts->steps_done = steps;
    return metrics_to_js(env, metrics);
  };
}

// Where the device works by itself the step is ended when it is done, and the worker takes the next job meanwhile.
Finish NativeTrainer::begin_step(Engine& engine, const std::shared_ptr<TrainerFacts>& facts, const std::vector<Pair>& pairs, TaskLine& line) {
  engine.end_steps(Trainer::kStepsUnderWay - 1);
  engine.trainer->begin_step(pairs, &line.abort());
  if (engine.backend->is_cpu()) return finish_with(facts, engine, engine.trainer->end_step());
  engine.step_ends.push_back([&engine, facts, completion = line.complete_later()] {
    try {
      const StepMetrics metrics = engine.trainer->end_step();
      completion.resolve(finish_with(facts, engine, metrics));
    } catch (...) {
      completion.reject(current_failure());
    }
  });
  return {};
}
Finish NativeTrainer::accumulate_only(Engine& engine, const std::shared_ptr<TrainerFacts>& facts, const std::vector<Pair>& pairs, TaskLine& line) {
  return finish_with(facts, engine, engine.trainer->accumulate_only(pairs, &line.abort()));
}
Finish NativeTrainer::evaluate_only(Engine& engine, const std::shared_ptr<TrainerFacts>& facts, const std::vector<Pair>& pairs, TaskLine& line) {
  return finish_with(facts, engine, engine.trainer->evaluate(pairs, &line.abort()));
}

Napi::Value NativeTrainer::step(const Napi::CallbackInfo& info) { return run(info, &NativeTrainer::begin_step); }
Napi::Value NativeTrainer::accumulate(const Napi::CallbackInfo& info) { return run(info, &NativeTrainer::accumulate_only); }
Napi::Value NativeTrainer::evaluate(const Napi::CallbackInfo& info) { return run(info, &NativeTrainer::evaluate_only); }

Napi::Value NativeTrainer::save_gradients(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    Session& session = open();
    return AddonState::of(env).start(env, session_, {{}, env.Undefined()}, [&engine = session.engine, path = to_text(info[0], "path")](TaskLine&) -> Finish {
      bindings::save_gradients(engine, path);
      return [](Napi::Env e, Task&) { return e.Undefined(); };
    });
  });
}

Napi::Value NativeTrainer::save_state(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    open();
    const std::string dir = to_text(info[0], "dir");
    Save save{BackgroundWriter::Kind::state,
      [dir](const Engine& e, const std::atomic<bool>* abort) { return e.trainer->take_state(dir, abort); },
      [dir](const Engine& e) { e.trainer->save_state(dir); }};
    return start_save(env, session_, to_optional_function(info[1], "onTaken"), std::move(save));
  });
}

Napi::Value NativeTrainer::load_state(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    Session& session = open();
    return AddonState::of(env).start(env, session_, {{}, env.Undefined()},
                                     [&engine = session.engine, facts = facts_, dir = to_text(info[0], "dir")](TaskLine&) -> Finish {
      engine.writer.wait_for(BackgroundWriter::Kind::state);  // it may be this one
      engine.trainer->load_state(dir);
      const int64_t steps = engine.trainer->steps_done();
      return [facts, steps](Napi::Env e, Task&) {
        facts->steps_done = steps;
        return e.Undefined();
      };
    });
  });
}

Napi::Value NativeTrainer::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    const bool mine = !session_->closed && session_->open_trainer == facts_->id;
    if (mine) session_->open_trainer = 0;
    return AddonState::of(env).start(env, session_, {{}, env.Undefined()}, [&engine = session_->engine, mine](TaskLine&) -> Finish {
      engine.writer.wait_for(BackgroundWriter::Kind::state);
      if (mine) engine.trainer.reset();
      return [](Napi::Env e, Task&) { return e.Undefined(); };
    });
  });
}

}  // namespace rlhi::bindings
