// NativeTrainer of lib/engine/addon.ts.
#pragma once
#include "columns.h"
#include "task.h"

namespace rlhi::bindings {

// What the JavaScript thread knows of a trainer; the trainer itself is the session's.
struct TrainerFacts {
  uint64_t id = 0;
  MemoryPlan plan;
  int64_t steps_done = 0;
  bool needs_references = true;
};

class NativeTrainer : public Napi::ObjectWrap<NativeTrainer> {
 public:
  static void define(Napi::Env env, AddonState& state);
  // A promise of a trainer; one a model at a time.
  static Napi::Value create(Napi::Env env, const std::shared_ptr<Session>& session, const TrainOptions& options);

  struct Parts {
    std::shared_ptr<Session> session;
    std::shared_ptr<TrainerFacts> facts;
  };
  explicit NativeTrainer(const Napi::CallbackInfo& info);  // only from create()
  ~NativeTrainer() override;

 private:
  // What is done with the pairs, on the worker.
  using Pass = Finish (*)(Engine& engine, const std::shared_ptr<TrainerFacts>& facts, const std::vector<Pair>& pairs, TaskLine& line);
  static Finish begin_step(Engine&, const std::shared_ptr<TrainerFacts>&, const std::vector<Pair>&, TaskLine&);
  static Finish accumulate_only(Engine&, const std::shared_ptr<TrainerFacts>&, const std::vector<Pair>&, TaskLine&);
  static Finish evaluate_only(Engine&, const std::shared_ptr<TrainerFacts>&, const std::vector<Pair>&, TaskLine&);
  static Finish finish_with(const std::shared_ptr<TrainerFacts>&, const Engine&, const StepMetrics&);
  Napi::Value plan(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value accumulate(const Napi::CallbackInfo& info);
  Napi::Value evaluate(const Napi::CallbackInfo& info);
  Napi::Value save_gradients(const Napi::CallbackInfo& info);
  Napi::Value save_state(const Napi::CallbackInfo& info);
  Napi::Value load_state(const Napi::CallbackInfo& info);
  Napi::Value steps_done(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Napi::Value run(const Napi::CallbackInfo& info, Pass pass);
  Session& open() const;               // throws ERR_CLOSED

  std::shared_ptr<Session> session_;
  std::shared_ptr<TrainerFacts> facts_;
};

}  // namespace rlhi::bindings
