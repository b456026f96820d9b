// One loaded model and the thread that all of its work runs on.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "background_writer.h"
#include "infer/generator.h"
#include "model/transformer.h"
#include "ops/device.h"
#include "train/trainer.h"
#include "worker.h"

namespace rlhi::bindings {

// Belongs to the session's worker thread while that has work, but for what writer's thread has been given.
struct Engine {
  std::unique_ptr<ops::Device> backend;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<Generator> generator;
  std::unique_ptr<Trainer> trainer;
  // A function for each step that the trainer has under way, the oldest first: it ends the step and settles its promise.
  std::deque<std::function<void()>> step_ends;
  std::string source_config;           // config.json of a Hugging Face folder, kept for saving
  std::string trace;                   // file that close() writes, "" for none
  BackgroundWriter writer;

  const ops::Table& ops() const { return backend->table(); }
  void end_steps(size_t keep = 0);     // all but the newest `keep`
  bool end_done_steps();               // those that are done; true where others are under way
  void free();                         // in reverse order
  void close();                        // waits for writes, writes the trace, where one was asked for, and frees; throws io
};

struct LoadRequest {
  std::string path;
  DType dtype = DType::f32;
  std::string device = "cpu";          // or cuda, cuda:N
  int threads = 0;
  uint64_t seed = 0;
  int32_t max_sequences = 64;
  std::string trace;                   // file to write when the model is closed, "" for none
};

// What info() says; taken once after loading.
struct ModelFacts {
  ModelConfig config;
  DType dtype = DType::f32;
  std::string backend;
  int threads = 0;
  int64_t parameters = 0, weight_bytes = 0;
  std::string fingerprint;
};

// On the worker. `progress` may throw to stop (aborted).
ModelFacts load_engine(Engine& engine, const LoadRequest& request, const std::function<void(double)>& progress);

// Packs the weights for many products of inference, where memory allows and it is not done yet.
void pack_for_inference(Engine& engine);

// The gradient of the trainer's last step, every parameter under its Hugging Face name, as f32.
void save_gradients(const Engine& engine, const std::string& path);

// Config of a path or of a shape's name.
ModelConfig config_of(const std::string& path);

// Main thread only, but for `engine`. A Model, its Trainer and every task under way hold it; the last to let go joins the worker.
struct Session {
  Engine engine;
  ModelFacts facts;
  bool closed = false;
  bool weights_changed = false;        // since facts.fingerprint
  uint64_t open_trainer = 0;           // 0: none
  uint64_t next_trainer = 1;
  int tasks = 0;                       // under way or waiting
  WorkerThread worker{[this] { return engine.end_done_steps(); }, [this] { engine.free(); }};  // last: joined before the engine goes

  // Aborts, drops and joins: the writer first, for which the worker may be waiting.
  void stop() { engine.writer.stop(), worker.stop(); }
};

}  // namespace rlhi::bindings
