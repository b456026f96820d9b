#include "ops/cuda/gradient_trial.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/cuda/attention_lists.h"
#include "ops/cuda/recorder.h"
#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int kTimes = 3, kFewMultiprocessors = 3;

struct Packed {
  std::vector<QuerySegment> segments;
  std::vector<KeySpan> spans;
  int32_t rows = 0;

  void add_pair(int32_t prompt, int32_t chosen, int32_t rejected) {
    const KeySpan shared{rows, prompt, 0};
    add(prompt, 0, {shared});
    for (const int32_t answer : {chosen, rejected}) add(answer, prompt, {shared, {rows, answer, prompt}});
  }
  void add(int32_t length, int32_t position, const std::vector<KeySpan>& sees) {
    segments.push_back({rows, length, position, static_cast<int32_t>(spans.size()), static_cast<int32_t>(sees.size())});
    spans.insert(spans.end(), sees.begin(), sees.end());
    rows += length;
  }
};

int32_t prompt_tokens(int multiprocessors) { return std::min(512, 16 * multiprocessors); }

// Two tiles of keys or more for each multiprocessor; the last block of an answer is not whole.
Packed pairs_for(int multiprocessors) {
  Packed packed;
  const int32_t length = prompt_tokens(multiprocessors), tiles = 3 * ((length + 127) / 128);
  for (int i = 0; i < (2 * multiprocessors + tiles - 1) / tiles; ++i) packed.add_pair(length, length, length - length / 8 - 1);
  return packed;
}

// One key head with `heads` heads of queries, which decide how the specialized form deals heads.
class Trial {
 public:
  Trial(const Launch& launch, int head_dim, int heads) : launch_(launch), packed_(pairs_for(launch.multiprocessors)) {
    const auto rows = static_cast<int64_t>(packed_.rows), q = int64_t{heads} * head_dim, kv = int64_t{head_dim};
    AttentionArgs& a = args_.forward;
    a.n_heads = heads, a.n_kv_heads = 1, a.head_dim = head_dim, a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
    a.q = random(rows, q), a.k = random(rows, kv), a.v = random(rows, kv), args_.dout = random(rows, q);
    a.out = tensor(DType::bf16, rows, q), a.lse = tensor(DType::f32, rows, heads);
    args_.dq = tensor(DType::bf16, rows, q), args_.dk = tensor(DType::bf16, rows, kv), args_.dv = tensor(DType::bf16, rows, kv);
    a.n_segments = static_cast<int64_t>(packed_.segments.size()), a.n_spans = static_cast<int64_t>(packed_.spans.size());
    segments_ = on_device(packed_.segments), spans_ = on_device(packed_.spans);
    scratch_ = take(attention_backward_scratch(args_));
  }

  // Bits with and without a window, and where each of few multiprocessors goes through many tiles; time over all of them.
  bool specialized_is_better() {
    for (const int window : {prompt_tokens(launch_.multiprocessors) / 3, 0}) {
      args_.forward.window = window;
      const Form uniform = form(false), specialized = form(true);
      run_forward();
      if (!ready_) return false;
      const std::vector<char> expected = gradients(launch_, uniform);
      Launch few = launch_;
      few.multiprocessors = kFewMultiprocessors;
      if (gradients(few, specialized) != expected || gradients(launch_, specialized) != expected) return false;
      if (window == 0) return milliseconds(specialized) < milliseconds(uniform);
    }
    return false;
  }

 private:
  struct Release {
    void operator()(void* p) const { runtime::release(p); }
  };
  // nullptr, and no longer ready, where there is no room.
  void* take(size_t bytes) {
    void* const p = runtime::allocate(bytes);
    if (p) memory_.emplace_back(p);
    ready_ = ready_ && p;
    return p;
  }
  Tensor tensor(DType dtype, int64_t rows, int64_t cols) { return {take(static_cast<size_t>(rows * cols * dtype_size(dtype))), dtype, rows, cols, cols}; }
  // Between -1 and 1.
  Tensor random(int64_t rows, int64_t cols) {
    const Tensor t = tensor(DType::bf16, rows, cols);
    std::vector<bf16> values(static_cast<size_t>(rows * cols));
    for (bf16& v : values) v = to_bf16(static_cast<float>(static_cast<int32_t>(state_ = state_ * 1664525 + 1013904223)) * 0x1p-31f);
    if (t.data) upload(t.data, values);
    return t;
  }
  template <class T>
  void upload(void* to, const std::vector<T>& from) {
    runtime::copy_in(launch_.stream, to, from.data(), from.size() * sizeof(T));
  }
  template <class T>
  const T* on_device(const std::vector<T>& list) {
    void* const p = take(list.size() * sizeof(T));
    if (p) upload(p, list);
    return static_cast<const T*>(p);
  }
  // The arguments with what lists are made from, and with what kernels read.
  AttentionBackwardArgs with_lists(const QuerySegment* segments, const KeySpan* spans) const {
    AttentionBackwardArgs args = args_;
    args.forward.segments = segments, args.forward.spans = spans;
    return args;
  }
  AttentionBackwardArgs on_host() const { return with_lists(packed_.segments.data(), packed_.spans.data()); }
  AttentionBackwardArgs on_device() const { return with_lists(segments_, spans_); }

  struct Form {
    AttentionPlan plan;
    BackwardTiles tiles;
  };
  Form form(bool specialized) {
    AttentionLists lists;
    const AttentionPlan plan = plan_attention_backward(args_, specialized);
    const BackwardLists& l = lists.backward(on_host().forward, plan);
    return {plan,
            {on_device(l.query_tiles), static_cast<int64_t>(l.query_tiles.size()), on_device(l.key_tiles), static_cast<int64_t>(l.key_tiles.size()),
             on_device(l.visitors)}};
  }
  void run_forward() {
    AttentionLists lists;
    const AttentionPlan plan = plan_attention(args_.forward);
    const std::vector<QueryTile>& tiles = lists.forward(on_host().forward, plan).tiles;
    const QueryTile* const there = on_device(tiles);
    if (ready_) attention(launch_, plan, on_device().forward, there, static_cast<int64_t>(tiles.size()));
  }
  void run(const Launch& launch, const Form& form) { attention_backward(launch, form.plan, on_device(), form.tiles, scratch_); }
  std::vector<char> gradients(const Launch& launch, const Form& form) {
    const Tensor all[] = {args_.dq, args_.dk, args_.dv};
    const auto bytes_of = [](const Tensor& t) { return static_cast<size_t>(t.rows * t.row_stride * dtype_size(t.dtype)); };
    for (const Tensor& t : all) runtime::zero(launch_.stream, t.data, bytes_of(t));
    run(launch, form);
    std::vector<char> bytes;
    for (const Tensor& t : all) {
      const size_t at = bytes.size();
      bytes.resize(at + bytes_of(t));
      runtime::copy_out(launch_.stream, bytes.data() + at, t.data, bytes_of(t));
      runtime::synchronize(launch_.stream);     // before the bytes move
    }
    return bytes;
  }
  double milliseconds(const Form& form) {
    return runtime::least_milliseconds(launch_.stream, kTimes, [&] { run(launch_, form); });
  }

  Launch launch_;
  Packed packed_;
  AttentionBackwardArgs args_;
  std::vector<std::unique_ptr<void, Release>> memory_;
  const QuerySegment* segments_ = nullptr;
  const KeySpan* spans_ = nullptr;
  void* scratch_ = nullptr;
  uint32_t state_ = 1;
  bool ready_ = true;
};

// What the environment decides; empty where it leaves it to a trial.
std::string form_asked_for() {
  const char* const set = std::getenv("RLHI_CUDA_ATTENTION_BACKWARD");
  const std::string form = set ? set : "";
  check(form.empty() || form == "specialized" || form == "uniform", ErrorCode::invalid_argument, "RLHI_CUDA_ATTENTION_BACKWARD is '", form,
        "', expected specialized or uniform");
  return form;
}

}  // namespace

bool prefers_specialized_gradients(const Launch& launch, const AttentionArgs& a) {
  static std::mutex mutex;
  static std::map<std::array<int, 3>, bool> known;
  const std::lock_guard lock(mutex);
  const int heads = a.n_heads / a.n_kv_heads % 2 == 0 ? 4 : 3;
  const std::array<int, 3> of{launch.device, a.head_dim, heads};
  if (const auto found = known.find(of); found != known.end()) return found->second;
  if (launch.recorder) require_no_recording(*launch.recorder);  // a trial is waited for
  const std::string form = form_asked_for();
  return known[of] = form.empty() ? Trial(launch, a.head_dim, heads).specialized_is_better() : form == "specialized";
}

}  // namespace rlhi::ops::cuda
