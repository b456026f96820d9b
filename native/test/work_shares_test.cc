// What each of 64 workers is given of the operations of a training step of Llama 3.1 8B: nobody may be given more than a tenth above
// the mean. The CPU backend's own code cuts the work, over kernels that count instead of computing (counting_kernels.h); the pool's
// rule, tasks in order to whoever is free first, is played with a clock for each worker.
#include <sys/mman.h>

#include "model/config.h"
#include "ops/cpu/backend.h"
#include "ops/cpu/list_schedule.h"
#include "test/attention_layout.h"
#include "test/check.h"
#include "test/counting_kernels.h"

namespace rlhi::test {
namespace {

using ops::GemmForm;

constexpr int kWorkers = 64;
constexpr double kMost = 1.1;  // of the mean share
const CountedPath kPaths[] = {CountedPath::avx2, CountedPath::avx512, CountedPath::tiles};

class Clocks : public LoopRunner {
 public:
  void run(int64_t tasks, const std::function<void(int64_t)>& run_task) override {
    serial_ += counted_cycles() - seen_;
    std::vector<double> costs;
    double work = 0;
    for (int64_t task = 0; task < tasks; ++task) {
      const double before = counted_cycles();
      run_task(task);
      costs.push_back(counted_cycles() - before);
      work += costs.back();
    }
    longest_ += ops::end_of(costs, kWorkers);
    work_ += work;
    if (work > 0 && ++loops_ <= 8) text_ += concat(", ", tasks, " tasks ", ops::longest_share(costs, kWorkers));
    seen_ = counted_cycles();
  }
  // The longest share of an operation over the mean, its loops one after the other, what is done outside of them by one worker.
  double longest_share() {
    serial_ += counted_cycles() - seen_;
    return (longest_ + serial_) * kWorkers / (work_ + serial_);
  }
  // The first loops, each with its longest share.
  std::string loops() const { return concat(serial_ / (work_ + serial_) * 100, " % by one", text_, loops_ > 8 ? ", ..." : ""); }

 private:
  double seen_ = counted_cycles(), serial_ = 0, longest_ = 0, work_ = 0;
  int loops_ = 0;
  std::string text_;
};

// Memory that is there once written, which hardly any is: every tensor of a call begins at its start.
class Pages {
 public:
  Pages() : data_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    EXPECT(data_ != MAP_FAILED);
  }
  ~Pages() { munmap(data_, kBytes); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  Tensor tensor(DType dtype, int64_t rows, int64_t cols) const { return Tensor(data_, dtype, rows, cols); }
  void* data() const { return data_; }

 private:
  static constexpr size_t kBytes = size_t{8} << 30;
  void* data_;
};

DType weights_of(CountedPath path) { return path == CountedPath::tiles ? DType::bf16 : DType::f32; }

// Runs `operation` for kWorkers on the path's counting kernels.
template <class F>
void expect_even(CountedPath path, const std::string& what, const F& operation) {
  Clocks clocks;
  ops::Backend backend(counting_kernels(path), counting_tiles(path), kWorkers, &clocks);
  operation(&backend);
  const double share = clocks.longest_share();
  if (share > kMost)
    throw std::runtime_error(
        concat(path_name(path), ": ", what, ": one of ", kWorkers, " workers has ", share, " of the mean; ", clocks.loops()));
}

struct Matmul {
  const char* name;
  int64_t out, in;
};
std::vector<Matmul> matmuls() {
  const ModelConfig c = named_shape("llama-3.1-8b");
  return {{"qkv", c.qkv_width(), c.hidden_size},
          {"o", c.hidden_size, c.q_width()},
          {"gate_up", 2 * c.intermediate_size, c.hidden_size},
          {"down", c.hidden_size, c.intermediate_size}};
}

TEST("shares of 64 workers: the products of a layer, forward and backward") {
  const Pages pages;
  for (const CountedPath path : kPaths) {
    const DType type = weights_of(path);
    for (const int64_t rows : {512, 2048}) {
      for (const Matmul& w : matmuls()) {
        ops::PackedWeight packed{pages.data(), type, w.out, w.in};
        ops::GemmArgs y;
        y.a = pages.tensor(type, rows, w.in), y.c = pages.tensor(type, rows, w.out), y.packed_b = &packed;
        expect_even(path, concat(w.name, " nt of ", rows, " rows"), [&](ops::Backend* b) { ops::gemm(b, y); });
        ops::GemmArgs dx;
        dx.form = GemmForm::nn;
        dx.a = pages.tensor(type, rows, w.out), dx.b = pages.tensor(type, w.out, w.in), dx.c = pages.tensor(type, rows, w.in);
        expect_even(path, concat(w.name, " nn of ", rows, " rows"), [&](ops::Backend* b) { ops::gemm(b, dx); });
        ops::GemmArgs dw;
        dw.form = GemmForm::tn;
        dw.a = pages.tensor(type, rows, w.out), dw.b = pages.tensor(type, rows, w.in), dw.c = pages.tensor(DType::f32, w.out, w.in);
        dw.accumulate = true;
        expect_even(path, concat(w.name, " tn of ", rows, " rows"), [&](ops::Backend* b) { ops::gemm(b, dw); });
      }
    }
  }
}

TEST("shares of 64 workers: attention over two pairs of 700 and 300 tokens") {
  const Pages pages;
  const ModelConfig c = named_shape("llama-3.1-8b");
  Layout pairs;
  for (int pair = 0; pair < 2; ++pair) {
    const int prompt = pairs.add(700);
    pairs.add(300, prompt), pairs.add(300, prompt);
  }
  for (const CountedPath path : kPaths) {
    const DType type = weights_of(path);
    ops::AttentionBackwardArgs a;
    ops::AttentionArgs& f = a.forward;
    f.n_heads = static_cast<int>(c.n_heads), f.n_kv_heads = static_cast<int>(c.n_kv_heads), f.head_dim = static_cast<int>(c.head_dim);
    f.scale = 0.088f;
    f.q = f.out = a.dout = a.dq = pages.tensor(type, pairs.rows, c.q_width());
    f.k = f.v = a.dk = a.dv = pages.tensor(type, pairs.rows, c.kv_width());
    f.lse = pages.tensor(DType::f32, pairs.rows, c.n_heads);
    f.segments = pairs.segments.data(), f.n_segments = static_cast<int64_t>(pairs.segments.size());
    f.spans = pairs.spans.data(), f.n_spans = static_cast<int64_t>(pairs.spans.size());
    expect_even(path, "attention", [&](ops::Backend* b) { ops::attention(b, f); });
    expect_even(path, "attention_backward", [&](ops::Backend* b) { ops::attention_backward(b, a); });
  }
}

TEST("shares of 64 workers: the head") {
  const Pages pages;
  const ModelConfig c = named_shape("llama-3.1-8b");
  constexpr int64_t kAnswers = 1200;  // tokens of the pairs above
  std::vector<int32_t> targets(kAnswers, 7);
  std::vector<float> logps(kAnswers), lse(kAnswers), dlogps(kAnswers, 1.0f);
  for (const CountedPath path : kPaths) {
    const DType type = weights_of(path);
    ops::LinearLogprobBackwardArgs a;
    ops::LinearLogprobArgs& f = a.forward;
    f.h = a.dh = pages.tensor(type, kAnswers, c.hidden_size);
    f.w = pages.tensor(type, c.vocab_size, c.hidden_size);
    f.targets = targets.data(), f.logps = logps.data(), f.lse = lse.data();
    a.dlogps = dlogps.data();
    a.dw = pages.tensor(DType::f32, c.vocab_size, c.hidden_size);
    expect_even(path, "linear_logprob", [&](ops::Backend* b) { ops::linear_logprob(b, f); });
    expect_even(path, "linear_logprob_backward", [&](ops::Backend* b) { ops::linear_logprob_backward(b, a); });
  }
}

TEST("shares of 64 workers: operations row by row") {
  const Pages pages;
  const ModelConfig c = named_shape("llama-3.1-8b");
  for (const CountedPath path : kPaths) {
    const DType type = weights_of(path);
    for (const int64_t rows : {512, 2048}) {
      const auto even = [&](const char* name, const auto& operation) {
        expect_even(path, concat(name, " of ", rows, " rows"), operation);
      };
      const Tensor x = pages.tensor(type, rows, c.hidden_size), residual = pages.tensor(DType::f32, rows, c.hidden_size),
                   w = pages.tensor(type, 1, c.hidden_size);
      const Tensor dw = pages.tensor(DType::f32, 1, c.hidden_size), rstd = pages.tensor(DType::f32, rows, 1);
      const Tensor gate_up = pages.tensor(type, rows, 2 * c.intermediate_size), act = pages.tensor(type, rows, c.intermediate_size);
      const Tensor table = pages.tensor(type, c.vocab_size, c.hidden_size), cos_sin = pages.tensor(DType::f32, rows, c.head_dim);
      const Tensor keys = pages.tensor(type, rows, c.kv_width());
      const std::vector<int32_t> ids(static_cast<size_t>(rows), 3);
      even("rms_norm", [&](ops::Backend* b) { ops::rms_norm(b, x, residual, w, 1e-5f, 1, rstd, x); });
      even("rms_norm_backward", [&](ops::Backend* b) { ops::rms_norm_backward(b, residual, dw, x, x, w, rstd, 1, true); });
      even("rope", [&](ops::Backend* b) { ops::rope(b, keys, static_cast<int>(c.head_dim), cos_sin, ids.data(), 1); });
      even("swiglu", [&](ops::Backend* b) { ops::swiglu(b, act, gate_up); });
      even("swiglu_backward", [&](ops::Backend* b) { ops::swiglu_backward(b, gate_up, act, gate_up, act); });
      even("copy", [&](ops::Backend* b) { ops::copy(b, x, residual); });
      even("add", [&](ops::Backend* b) { ops::add(b, residual, x); });
      even("embedding", [&](ops::Backend* b) { ops::embedding(b, residual, table, ids.data()); });
      even("scatter_add_rows", [&](ops::Backend* b) {
        ops::scatter_add_rows(b, pages.tensor(DType::f32, c.vocab_size, c.hidden_size), residual, ids.data());
      });
      even("column_sum", [&](ops::Backend* b) { ops::column_sum(b, dw, x); });
    }
  }
}

TEST("shares of 64 workers: the optimizer") {
  const Pages pages;
  for (const CountedPath path : kPaths) {
    for (const Matmul& w : matmuls()) {
      ops::AdamWArgs a;
      a.n = w.out * w.in;
      auto* floats = static_cast<float*>(pages.data());
      a.dtype = DType::bf16, a.weight = floats, a.remainder = static_cast<int16_t*>(pages.data()), a.grad = floats, a.m = floats,
      a.v = floats;
      expect_even(path, concat("adamw of ", w.name), [&](ops::Backend* b) { ops::adamw(b, a); });
      double sum = 0;
      expect_even(path, concat("sum_of_squares of ", w.name), [&](ops::Backend* b) { ops::sum_of_squares(b, Tensor(floats, DType::f32, 1, a.n), &sum); });
      ops::PackedWeight packed{pages.data(), DType::f32, 0, 0};
      expect_even(path, concat("pack_weight of ", w.name),
                  [&](ops::Backend* b) { ops::pack_weight(b, &packed, pages.tensor(weights_of(path), w.out, w.in)); });
    }
  }
}

}  // namespace
}  // namespace rlhi::test
