#include "ops/cuda/gradient_trial.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/cuda/attention_lists.h"
#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int kHeads = 4, kKvHeads = 1, kTimes = 3;

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

// Two tiles of keys or more for each multiprocessor; the last block of an answer is not whole.
Packed pairs_for(int multiprocessors) {
  Packed packed;
  const int32_t length = std::min(512, 16 * multiprocessors), tiles = 3 * ((length + 127) / 128);
  for (int i = 0; i < (2 * multiprocessors + tiles - 1) / tiles; ++i) packed.add_pair(length, length, length - length / 8 - 1);
  return packed;
}

class Trial {
 public:
  Trial(const Launch& launch, int head_dim) : launch_(launch), packed_(pairs_for(launch.multiprocessors)) {
    launch_.recorder = nullptr;
    const auto rows = static_cast<int64_t>(packed_.rows);
    const int64_t q = int64_t{kHeads} * head_dim, kv = int64_t{kKvHeads} * head_dim;
    AttentionArgs& a = args_.forward;
    a.n_heads = kHeads, a.n_kv_heads = kKvHeads, a.head_dim = head_dim, a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
    a.q = random(rows, q), a.k = random(rows, kv), a.v = random(rows, kv), args_.dout = random(rows, q);
    a.out = tensor(DType::bf16, rows, q), a.lse = tensor(DType::f32, rows, kHeads);
    args_.dq = tensor(DType::bf16, rows, q), args_.dk = tensor(DType::bf16, rows, kv), args_.dv = tensor(DType::bf16, rows, kv);
    a.n_segments = static_cast<int64_t>(packed_.segments.size()), a.n_spans = static_cast<int64_t>(packed_.spans.size());
    scratch_ = take(attention_backward_scratch(args_));
  }

  bool specialized_is_better() {
    AttentionArgs& a = args_.forward;
    a.segments = packed_.segments.data(), a.spans = packed_.spans.data();
    const AttentionPlan forward_plan = plan_attention(a), uniform = plan_attention_backward(args_, false), specialized = plan_attention_backward(args_, true);
    AttentionLists forward_lists, uniform_lists, specialized_lists;  // made on the host
    const ForwardLists& forward = forward_lists.forward(a, forward_plan);
    const BackwardTiles one = on_device(uniform_lists.backward(a, uniform)), other = on_device(specialized_lists.backward(a, specialized));
    const QueryTile* const tiles = on_device(forward.tiles);
    a.segments = on_device(packed_.segments), a.spans = on_device(packed_.spans);
    if (!ready_) return false;
    attention(launch_, forward_plan, a, tiles, static_cast<int64_t>(forward.tiles.size()));
    std::vector<char> expected, found;
    const double uniform_time = run(uniform, one, expected), specialized_time = run(specialized, other, found);
    return found == expected && specialized_time < uniform_time;
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
  BackwardTiles on_device(const BackwardLists& lists) {
    return {on_device(lists.query_tiles), static_cast<int64_t>(lists.query_tiles.size()), on_device(lists.key_tiles),
            static_cast<int64_t>(lists.key_tiles.size()), on_device(lists.visitors)};
  }
  // The bytes of all gradients, and the least time of a few.
  double run(const AttentionPlan& plan, const BackwardTiles& tiles, std::vector<char>& gradients) {
    const Tensor all[] = {args_.dq, args_.dk, args_.dv};
    const auto bytes_of = [](const Tensor& t) { return static_cast<size_t>(t.rows * t.row_stride * dtype_size(t.dtype)); };
    for (const Tensor& t : all) runtime::zero(launch_.stream, t.data, bytes_of(t));
    const runtime::OwnEvent begin, end;
    double least = 0;
    for (int i = 0; i < kTimes; ++i) {
      runtime::record(begin.event, launch_.stream);
      attention_backward(launch_, plan, args_, tiles, scratch_);
      runtime::record(end.event, launch_.stream);
      runtime::wait(end.event);
      const double time = runtime::milliseconds(begin.event, end.event);
      least = i == 0 ? time : std::min(least, time);
    }
    for (const Tensor& t : all) {
      const size_t at = gradients.size();
      gradients.resize(at + bytes_of(t));
      runtime::copy_out(launch_.stream, gradients.data() + at, t.data, bytes_of(t));
    }
    runtime::synchronize(launch_.stream);
    return least;
  }

  Launch launch_;
  Packed packed_;
  AttentionBackwardArgs args_;
  std::vector<std::unique_ptr<void, Release>> memory_;
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

bool prefers_specialized_gradients(const Launch& launch, int head_dim) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, bool> known;
  const std::lock_guard lock(mutex);
  const std::pair<int, int> of{launch.device, head_dim};
  if (const auto found = known.find(of); found != known.end()) return found->second;
  const std::string form = form_asked_for();
  return known[of] = form.empty() ? Trial(launch, head_dim).specialized_is_better() : form == "specialized";
}

}  // namespace rlhi::ops::cuda
