#include "session.h"

#include <filesystem>
#include <fstream>
#include <sstream>

namespace rlhi::bindings {
namespace {

bool is_shape_name(const std::string& path) { return is_named_shape(path) && !std::filesystem::exists(path); }

std::string read_source_config(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return "";
  std::ifstream in(std::filesystem::path(path) / "config.json", std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  check(in.good(), ErrorCode::io, path, "/config.json cannot be read");
  return text.str();
}

}  // namespace

ModelConfig config_of(const std::string& path) { return is_shape_name(path) ? named_shape(path) : load_config(path); }

void Engine::end_steps(size_t keep) {
  while (step_ends.size() > keep) {
    const std::function<void()> end = std::move(step_ends.front());
    step_ends.pop_front();
    end();
  }
}

bool Engine::end_done_steps() {
  // A device that cannot say is asked for the step, which fails and says why.
  const auto done = [&] {
    try {
      return trainer->oldest_step_is_done();
    } catch (const Error&) {
      return true;
    }
  };
  while (!step_ends.empty() && done()) end_steps(step_ends.size() - 1);
  return !step_ends.empty();
}

void Engine::free() {
  step_ends.clear();
  trainer.reset();
  generator.reset();
  transformer.reset();
  weights.reset();
  backend.reset();
}

void Engine::close() {
  writer.wait_for_all();
  std::exception_ptr failed;             // a trace that cannot be written keeps nothing in memory
  try {
    if (backend && !trace.empty()) backend->write_trace(trace);
  } catch (...) {
    failed = std::current_exception();
  }
  trace.clear();
  free();
  if (failed) std::rethrow_exception(failed);
}

ModelFacts load_engine(Engine& engine, const LoadRequest& request, const std::function<void(double)>& progress) {
  const ModelConfig config = config_of(request.path);
  ops::DeviceOptions device;
  device.name = request.device, device.threads = request.threads;
  engine.backend = ops::open_device(device);
  const ops::Table& ops = engine.ops();
  ops::Backend* backend = engine.backend->handle();
  if (!request.trace.empty()) {
    engine.backend->start_trace();
    engine.trace = request.trace;
  }
  if (is_shape_name(request.path)) {
    engine.weights = random_weights(config, request.dtype, request.seed, ops, backend);
  } else {
    engine.source_config = read_source_config(request.path);
    engine.weights = load_weights(request.path, config, request.dtype, ops, backend, progress);
  }
  engine.transformer = std::make_unique<Transformer>(*engine.weights, ops, backend);
  GeneratorOptions generation;
  generation.max_sequences = request.max_sequences;
  engine.generator = std::make_unique<Generator>(*engine.transformer, generation, ops, backend);

  ModelFacts facts;
  facts.config = engine.weights->config();
  facts.dtype = request.dtype;
  facts.backend = ops.backend_name;
  facts.threads = engine.backend->threads();
  for (const NamedParameter& p : engine.weights->parameters) facts.parameters += p.view.size();
  facts.weight_bytes = engine.weights->elements() * dtype_size(request.dtype);
  facts.fingerprint = weights_fingerprint(*engine.weights, ops, backend);
  return facts;
}

void pack_for_inference(Engine& engine) {
  const int64_t available = engine.ops().available_bytes(engine.backend->handle());  // 0: unknown
  if (available > 0 && static_cast<int64_t>(engine.transformer->packed_bytes()) > available / 2) return;
  engine.transformer->pack();
}

void save_gradients(const Engine& engine, const std::string& path) {
  save_parameters(path, engine.trainer->gradients(), DType::f32, engine.ops(), engine.backend->handle());
}

}  // namespace rlhi::bindings
