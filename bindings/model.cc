#include "model.h"

#include <cstring>

#include "options.h"
#include "saving.h"
#include "trainer.h"

namespace rlhi::bindings {
namespace {

template <class Array, class T>
Napi::Value to_typed_array(Napi::Env env, const std::vector<T>& values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  return array;
}

const char* finish_name(FinishReason reason) {
  return reason == FinishReason::stop_token ? "stop_token" : reason == FinishReason::stop_string ? "stop_string" : "length";
}

Napi::Object result_to_js(Napi::Env env, const GenerateResult& result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("request", static_cast<double>(result.request));
  object.Set("sample", result.sample);
  object.Set("tokenIds", to_typed_array<Napi::Int32Array>(env, result.token_ids));
  object.Set("logps", to_typed_array<Napi::Float32Array>(env, result.logps));
  object.Set("finishReason", finish_name(result.finish));
  return object;
}

Napi::Object facts_to_js(Napi::Env env, const ModelFacts& facts) {
  static const char* const architectures[] = {"llama", "mistral", "qwen2", "qwen3"};
  const ModelConfig& c = facts.config;
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, int64_t value) { object.Set(name, static_cast<double>(value)); };
  object.Set("architecture", architectures[static_cast<size_t>(c.architecture)]);
  object.Set("dtype", dtype_name(facts.dtype));
  object.Set("backend", facts.backend);
  set("threads", facts.threads);
  set("parameters", facts.parameters);
  set_shape(object, c);
  set("maxPosition", c.max_position);
  object.Set("tiedEmbeddings", c.tied_embeddings);
  set("bosTokenId", c.bos_token_id);
  Napi::Array eos = Napi::Array::New(env, c.eos_token_ids.size());
  for (uint32_t i = 0; i < c.eos_token_ids.size(); ++i) eos.Set(i, c.eos_token_ids[i]);
  object.Set("eosTokenIds", eos);
  set("weightBytes", facts.weight_bytes);
  object.Set("fingerprint", facts.fingerprint);
  return object;
}

Napi::Value score_to_js(Napi::Env env, const std::vector<std::vector<std::vector<float>>>& scores) {
  std::vector<float> tokens;
  std::vector<double> sums;
  for (const auto& tree : scores) {
    for (const auto& continuation : tree) {
      double sum = 0;
      for (const float logp : continuation) sum += static_cast<double>(logp);
      sums.push_back(sum);
      tokens.insert(tokens.end(), continuation.begin(), continuation.end());
    }
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("tokenLogps", to_typed_array<Napi::Float32Array>(env, tokens));
  result.Set("logps", to_typed_array<Napi::Float64Array>(env, sums));
  return result;
}

Napi::Value nothing(Napi::Env env, Task&) { return env.Undefined(); }

}  // namespace

void Model::define(Napi::Env env, AddonState& state) {
  state.model_class = Napi::Persistent(DefineClass(env, "NativeModel", {
    InstanceMethod<&Model::info>("info"),
    InstanceMethod<&Model::score>("score"),
    InstanceMethod<&Model::set_token_bytes>("setTokenBytes"),
    InstanceMethod<&Model::generate>("generate"),
    InstanceMethod<&Model::save>("save"),
    InstanceMethod<&Model::create_trainer>("createTrainer"),
    InstanceMethod<&Model::close>("close"),
  }));
}

Model::Model(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Model>(info) {
  if (!info[0].IsExternal()) throw to_js_error(info.Env(), {error_code_name(ErrorCode::invalid_argument), "models are made by loadModel"});
  session_ = *info[0].As<Napi::External<std::shared_ptr<Session>>>().Data();
}

Napi::Value Model::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    const Fields options(info[0], "");
    const LoadRequest request = read_load_request(options);
    AddonState& state = AddonState::of(env);
    const std::shared_ptr<Session> session = state.new_session();
    const TaskInputs inputs{{options.optional_function("onProgress")}, env.Undefined()};
    const bool wants_progress = inputs.callbacks[0].IsFunction();
    // A job outlives its session only as dropped work, so a bare reference to the engine is safe in it.
    return state.start(env, session, inputs, [&engine = session->engine, request, wants_progress](TaskLine& line) -> Finish {
      const auto progress = [&](double fraction) {
        check(!line.abort(), ErrorCode::aborted, "loading was aborted");
        if (!wants_progress) return;
        Event event = [fraction](Napi::Env e, Task& task) { task.callbacks[0].Call({Napi::Number::New(e, fraction)}); };
        if (fraction < 1) line.emit_if_idle(std::move(event));  // a busy caller misses some, never the last
        else line.emit(std::move(event));
      };
      ModelFacts facts = load_engine(engine, request, progress);
      return [facts = std::move(facts)](Napi::Env e, Task& task) -> Napi::Value {
        task.session->facts = facts;
        return AddonState::of(e).model_class.New({Napi::External<std::shared_ptr<Session>>::New(e, &task.session)});
      };
    });
  });
}

Session& Model::open() const {
  if (session_->closed) throw ClosedError("the model was closed");
  return *session_;
}

TokenLimits Model::limits() const { return {session_->facts.config.vocab_size, session_->facts.config.max_position}; }

Napi::Value Model::info(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&]() -> Napi::Value {
    Session& session = open();
    ModelFacts& facts = session.facts;
    if (session.weights_changed) {
      // The engine is this thread's only while no task has it.
      facts.fingerprint = session.tasks > 0 ? "" : weights_fingerprint(*session.engine.weights, session.engine.ops(), session.engine.backend->handle());
      session.weights_changed = session.tasks > 0;
    }
    return facts_to_js(info.Env(), facts);
  });
}

Napi::Value Model::score(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    Session& session = open();
    auto trees = read_score_batch(info[0], limits());
    const int64_t budget = to_integer(info[1], "maxTokensPerMicroBatch", 1, int64_t{1} << 31);
    const TaskInputs inputs{{}, to_optional_signal(info[2], "signal")};
    return AddonState::of(env).start(env, session_, inputs, [&engine = session.engine, trees = std::move(trees), budget](TaskLine& line) -> Finish {
      auto scores = score_trees(*engine.transformer, trees, budget, engine.ops(), engine.backend->handle(), &line.abort());
      return [scores = std::move(scores)](Napi::Env e, Task&) { return score_to_js(e, scores); };
    });
  });
}

Napi::Value Model::set_token_bytes(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&]() -> Napi::Value {
    Session& session = open();
    const std::vector<int32_t> given = copy_elements<int32_t>(info[0], "offsets");
    std::vector<uint8_t> bytes = copy_elements<uint8_t>(info[1], "bytes");
    std::vector<int64_t> offsets(given.begin(), given.end());
    check_token_bytes(offsets, bytes, session.facts.config.vocab_size);
    session.worker.submit({0, std::make_shared<JobControl>(), [&engine = session.engine, offsets = std::move(offsets), bytes = std::move(bytes)]() mutable {
      if (engine.generator) engine.generator->set_token_bytes(std::move(offsets), std::move(bytes));
    }});
    return info.Env().Undefined();
  });
}

Napi::Value Model::generate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    Session& session = open();
    auto requests = read_generate_requests(info[0], limits());
    const TaskInputs inputs{{to_function(info[1], "onResult"), to_optional_function(info[2], "onToken")}, to_optional_signal(info[3], "signal")};
    const bool wants_tokens = inputs.callbacks[1].IsFunction();
    return AddonState::of(env).start(env, session_, inputs, [&engine = session.engine, requests = std::move(requests), wants_tokens](TaskLine& line) -> Finish {
      pack_for_inference(engine);
      const auto on_result = [&line](GenerateResult&& result) {
        line.emit([result = std::move(result)](Napi::Env e, Task& task) { task.callbacks[0].Call({result_to_js(e, result)}); });
      };
      std::function<void(int64_t, int32_t, int32_t)> on_token;
      if (wants_tokens) {
        on_token = [&line](int64_t request, int32_t sample, int32_t token) {
          line.emit([=](Napi::Env e, Task& task) {
            Napi::Object event = Napi::Object::New(e);
            event.Set("request", static_cast<double>(request));
            event.Set("sample", sample);
            event.Set("token", token);
            task.callbacks[1].Call({event});
          });
        };
      }
      engine.generator->run(requests, on_result, on_token, &line.abort());
      return nothing;
    });
  });
}

Napi::Value Model::save(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    open();
    const std::string dir = to_text(info[0], "dir");
    const DType dtype = to_dtype(info[1], "dtype");
    Save save{BackgroundWriter::Kind::weights,
      [dir, dtype](const Engine& e, const std::atomic<bool>* abort) {
        return take_pretrained(dir, *e.weights, dtype, e.ops(), e.backend->handle(), e.source_config, kMaxShardBytes, abort);
      },
      [dir, dtype](const Engine& e) { save_pretrained(dir, *e.weights, dtype, e.ops(), e.backend->handle(), e.source_config); }};
    return start_save(env, session_, to_optional_function(info[2], "onTaken"), std::move(save));
  });
}

Napi::Value Model::create_trainer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    open();
    return NativeTrainer::create(env, session_, read_train_options(info[0]));
  });
}

Napi::Value Model::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return as_promise(env, [&]() -> Napi::Value {
    session_->closed = true;
    // A second close waits for the first.
    return AddonState::of(env).start(env, session_, {{}, env.Undefined()}, [&engine = session_->engine](TaskLine&) -> Finish {
      engine.close();
      return nothing;
    });
  });
}

}  // namespace rlhi::bindings
