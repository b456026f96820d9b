#include "model/operation_speed.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "ops/device_buffer.h"
#include "ops/random_block.h"
#include "model/transformer.h"
#include "ops/operation_cost.h"

namespace rlhi {
namespace {

using ops::GemmForm;

// Pairs of about 512 rows: half the prompt's, a quarter each answer's.
PackedTokens pairs_of(int64_t tokens) {
  const int64_t pairs = std::max<int64_t>(1, tokens / 512);
  TreePacker packer;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t rows = (i + 1) * tokens / pairs - i * tokens / pairs, answer = rows / 4;
    // An answer's last token predicts nothing and has no row.
    const std::vector<int32_t> prompt(static_cast<size_t>(rows - 2 * answer)), answer_ids(static_cast<size_t>(answer + 1));
    packer.add_tree(prompt, {answer_ids, answer_ids});
  }
  return packer.take();
}

class Measurement {
 public:
  Measurement(const ModelConfig& config, DType dtype, int64_t tokens, const ops::DeviceOptions& device, int64_t repeats)
      : c_(config), dtype_(dtype), tokens_(tokens), repeats_(repeats), device_(ops::open_device(device)), ops_(device_->table()),
        backend_(device_->handle()), random_(ops_, backend_), packed_(pairs_of(tokens)) {
    for (int64_t i = 0; i < tokens; ++i) {
      rows_.push_back(static_cast<int32_t>(tokens - 1 - i));
      ids_.push_back(static_cast<int32_t>(i * 7919 % config.vocab_size));
    }
  }

  std::vector<OperationSpeed> run() {
    measure_movement();
    measure_norms();
    for (const Linear& w :
         {Linear{"qkv", c_.qkv_width(), c_.hidden_size, false}, Linear{"attention_out", c_.hidden_size, c_.q_width(), true},
          Linear{"gate_up", 2 * c_.intermediate_size, c_.hidden_size, false},
          Linear{"down", c_.hidden_size, c_.intermediate_size, true}}) {
      measure_products(w);
    }
    measure_attention();
    measure_gate();
    measure_head();
    measure_optimizer();
    return std::move(speeds_);
  }

 private:
  struct Linear {
    const char* name;
    int64_t out, in;
    bool to_residual;  // added to the f32 stream; its gradient comes rounded, the others' goes on in f32 (layer.cc)
  };

  // A random matrix that lives until the operations at hand are measured.
  Tensor tensor(DType dtype, int64_t rows, int64_t cols) {
    buffers_.emplace_back(ops_, backend_, static_cast<size_t>(rows * cols * dtype_size(dtype)), "a tensor to measure with");
    const Tensor t(buffers_.back().data(), dtype, rows, cols);
    random_.fill(t);
    return t;
  }
  Tensor floats(int64_t rows, int64_t cols) { return tensor(DType::f32, rows, cols); }
  Tensor activation(int64_t cols) { return tensor(dtype_, tokens_, cols); }

  // call(table, backend) makes one call of the operation.
  template <class F>
  void time(const char* operation, const std::string& part, const std::string& shape, const F& call) {
    constexpr double kEnough = 0.05;
    std::vector<double> seconds;
    call(ops_, backend_);  // grows scratch, wakes the threads
    for (double total = 0; static_cast<int64_t>(seconds.size()) < repeats_ || (total < kEnough && seconds.size() < 1000);
         total += seconds.back()) {
      seconds.push_back(device_->milliseconds([&] { call(ops_, backend_); }) / 1e3);
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    const ops::OperationCost cost = ops::cost_of_calls(call);
    speeds_.push_back({operation, part, shape, seconds[seconds.size() / 2], cost.flops, cost.bytes});
  }
  std::string rows_by(int64_t cols) const { return concat(tokens_, " x ", cols); }

  void measure_movement() {
    const Tensor residual = floats(tokens_, c_.hidden_size), x = activation(c_.hidden_size), other = activation(c_.hidden_size);
    const Tensor table = tensor(dtype_, c_.vocab_size, c_.hidden_size), sum = floats(1, c_.hidden_size),
                 keys = activation(c_.kv_width()), cache = activation(c_.kv_width());
    const std::string hidden = rows_by(c_.hidden_size);
    time("zero", "gradients", hidden,
         [&](const auto& ops, auto* b) { ops.zero(b, residual.data, static_cast<size_t>(residual.bytes())); });
    time("copy", "residual gradient", hidden, [&](const auto& ops, auto* b) { ops.copy(b, x, residual); });
    time("gather_rows", "answer rows", hidden, [&](const auto& ops, auto* b) { ops.gather_rows(b, other, x, rows_.data()); });
    time("scatter_rows", "keys to the cache", rows_by(c_.kv_width()),
         [&](const auto& ops, auto* b) { ops.scatter_rows(b, cache, keys, rows_.data()); });
    time("add", "residual", hidden, [&](const auto& ops, auto* b) { ops.add(b, residual, x); });
    time("column_sum", "bias gradient", hidden, [&](const auto& ops, auto* b) { ops.column_sum(b, sum, x); });
    time("embedding", "embedding", hidden, [&](const auto& ops, auto* b) { ops.embedding(b, residual, table, ids_.data()); });
    buffers_.clear();
    const Tensor gradient = floats(c_.vocab_size, c_.hidden_size), dx = floats(tokens_, c_.hidden_size);
    time("scatter_add_rows", "embedding gradient", hidden,
         [&](const auto& ops, auto* b) { ops.scatter_add_rows(b, gradient, dx, ids_.data()); });
    buffers_.clear();
  }

  void measure_norms() {
    const Tensor residual = floats(tokens_, c_.hidden_size), kept = activation(c_.hidden_size), y = activation(c_.hidden_size),
                 weight = tensor(dtype_, 1, c_.hidden_size);
    const Tensor rstd = floats(tokens_, 1), dweight = floats(1, c_.hidden_size), dy = floats(tokens_, c_.hidden_size),
                 dx = floats(tokens_, c_.hidden_size);
    const std::string hidden = rows_by(c_.hidden_size);
    time("rms_norm", "norm", hidden, [&](const auto& ops, auto* b) { ops.rms_norm(b, y, residual, weight, 1e-5f, 1, rstd, kept); });
    time("rms_norm_backward", "norm", hidden,
         [&](const auto& ops, auto* b) { ops.rms_norm_backward(b, dx, dweight, dy, kept, weight, rstd, 1, true); });
    buffers_.clear();
  }

  void measure_products(const Linear& w) {
    const Tensor weight = tensor(dtype_, w.out, w.in), gradient = floats(w.out, w.in), x = activation(w.in), dy = activation(w.out);
    const Tensor y = tensor(w.to_residual ? DType::f32 : dtype_, tokens_, w.out),
                 dx = tensor(w.to_residual ? dtype_ : DType::f32, tokens_, w.in);
    const size_t packed_bytes = ops_.packed_bytes(backend_, dtype_, w.out, w.in);  // 0 where weights are read as they are
    const DeviceBuffer memory(ops_, backend_, packed_bytes, "a packed weight");
    ops::PackedWeight packed;
    packed.data = memory.data();
    const auto shape = [](int64_t m, int64_t n, int64_t k) { return concat(m, " x ", n, " x ", k); };
    if (packed_bytes > 0) time("pack_weight", w.name, concat(w.out, " x ", w.in), [&](const auto& ops, auto* b) { ops.pack_weight(b, &packed, weight); });
    ops::GemmArgs forward, input, of_weight;
    forward.a = x, forward.b = weight, forward.packed_b = packed_bytes > 0 ? &packed : nullptr, forward.c = y, forward.accumulate = w.to_residual;
    input.form = GemmForm::nn, input.a = dy, input.b = weight, input.c = dx;
    of_weight.form = GemmForm::tn, of_weight.a = dy, of_weight.b = x, of_weight.c = gradient, of_weight.accumulate = true;
    time("gemm", w.name, shape(tokens_, w.out, w.in), [&](const auto& ops, auto* b) { ops.gemm(b, forward); });
    time("gemm", concat(w.name, " input gradient"), shape(tokens_, w.in, w.out),
         [&](const auto& ops, auto* b) { ops.gemm(b, input); });
    time("gemm", concat(w.name, " weight gradient"), shape(w.out, w.in, tokens_),
         [&](const auto& ops, auto* b) { ops.gemm(b, of_weight); });
    buffers_.clear();
  }

  void measure_attention() {
    const int64_t positions = tokens_;
    const Tensor cos_sin = floats(positions, c_.head_dim);
    ops::AttentionBackwardArgs a;
    ops::AttentionArgs& f = a.forward;
    f.n_heads = static_cast<int>(c_.n_heads), f.n_kv_heads = static_cast<int>(c_.n_kv_heads),
    f.head_dim = static_cast<int>(c_.head_dim);
    f.window = c_.layer_window.empty() ? 0 : c_.layer_window.front();
    f.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c_.head_dim)));
    f.q = activation(c_.q_width()), f.k = activation(c_.kv_width()), f.v = activation(c_.kv_width()), f.out = activation(c_.q_width()),
    f.lse = floats(tokens_, c_.n_heads);
    f.segments = packed_.segments.data(), f.n_segments = static_cast<int64_t>(packed_.segments.size());
    f.spans = packed_.spans.data(), f.n_spans = static_cast<int64_t>(packed_.spans.size());
    a.dout = activation(c_.q_width()), a.dq = activation(c_.q_width()), a.dk = activation(c_.kv_width()),
    a.dv = activation(c_.kv_width());
    const std::string heads = concat(tokens_, " x ", c_.n_heads, " x ", c_.head_dim);
    time("attention", "attention", heads, [&](const auto& ops, auto* b) { ops.attention(b, f); });
    time("attention_backward", "attention", heads, [&](const auto& ops, auto* b) { ops.attention_backward(b, a); });
    time("rope", "queries", heads,
         [&](const auto& ops, auto* b) { ops.rope(b, f.q, f.head_dim, cos_sin, packed_.positions.data(), 1); });
    buffers_.clear();
  }

  void measure_gate() {
    const Tensor gate_up = activation(2 * c_.intermediate_size), out = activation(c_.intermediate_size),
                 d = activation(2 * c_.intermediate_size);
    const std::string wide = rows_by(c_.intermediate_size);
    time("swiglu", "MLP", wide, [&](const auto& ops, auto* b) { ops.swiglu(b, out, gate_up); });
    time("swiglu_backward", "MLP", wide, [&](const auto& ops, auto* b) { ops.swiglu_backward(b, d, out, gate_up, out); });
    buffers_.clear();
  }

  void measure_head() {
    const int64_t answers = std::max<int64_t>(1, tokens_ / 2);
    const auto vector = [&] { return static_cast<float*>(floats(1, answers).data); };
    ops::LinearLogprobBackwardArgs a;
    ops::LinearLogprobArgs& f = a.forward;
    f.h = tensor(dtype_, answers, c_.hidden_size), f.w = tensor(dtype_, c_.vocab_size, c_.hidden_size);
    f.targets = ids_.data(), f.logps = vector(), f.lse = vector();
    a.dlogps = vector(), a.dh = tensor(dtype_, answers, c_.hidden_size), a.dw = floats(c_.vocab_size, c_.hidden_size);
    const std::string shape = concat(answers, " x ", c_.vocab_size, " x ", c_.hidden_size);
    time("linear_logprob", "head", shape, [&](const auto& ops, auto* b) { ops.linear_logprob(b, f); });
    time("linear_logprob_backward", "head", shape, [&](const auto& ops, auto* b) { ops.linear_logprob_backward(b, a); });
    measure_loss(answers, f.logps);
    measure_choices(answers);
    buffers_.clear();
  }

  // Of pairs whose answers have 128 tokens each.
  void measure_loss(int64_t answers, float* logps) {
    constexpr int32_t kAnswer = 128;
    std::vector<ops::PairRows> pairs;
    for (int64_t row = 0; row + 2 * kAnswer <= answers; row += 2 * kAnswer) pairs.push_back({row, kAnswer, kAnswer, -200, -200});
    if (pairs.empty()) pairs.push_back({0, 1, 1, -1, -1});
    ops::PreferenceLossArgs a;
    a.pairs = pairs.data(), a.n = static_cast<int64_t>(pairs.size()), a.logps = logps, a.dlogps = static_cast<float*>(floats(1, answers).data);
    a.sums = static_cast<ops::PairSums*>(floats(1, 4 * a.n).data);
    time("preference_loss", "loss", concat(a.n, " pairs"), [&](const auto& ops, auto* b) { ops.preference_loss(b, a); });
  }

  // One token a row, as in decoding.
  void measure_choices(int64_t answers) {
    const int64_t rows = std::min<int64_t>(64, answers);
    const Tensor logits = floats(rows, c_.vocab_size);
    std::vector<ops::TokenChoice> choices(static_cast<size_t>(rows));
    std::vector<ops::ChosenToken> chosen(choices.size());
    for (size_t i = 0; i < choices.size(); ++i) choices[i].row = static_cast<int32_t>(i), choices[i].top_p = 0.95, choices[i].uniform = 0.5;
    time("choose_tokens", "sampling", concat(rows, " x ", c_.vocab_size),
         [&](const auto& ops, auto* b) { ops.choose_tokens(b, logits, choices.data(), rows, chosen.data()); });
  }

  void measure_optimizer() {
    const int64_t n = 2 * c_.intermediate_size * c_.hidden_size;
    ops::AdamWArgs a;
    const Tensor gradient = floats(1, n), weight = tensor(dtype_, 1, n), m = floats(1, n), v = floats(1, n),
                 remainder = tensor(DType::bf16, 1, n);
    ops_.zero(backend_, v.data, static_cast<size_t>(v.bytes()));
    a.n = n, a.dtype = dtype_, a.weight = weight.data, a.grad = gradient.data, a.m = m.data, a.v = v.data;
    if (dtype_ == DType::bf16) a.remainder = static_cast<int16_t*>(remainder.data);
    a.lr = 1e-6;
    time("adamw", "gate_up", concat(n), [&](const auto& ops, auto* b) { ops.adamw(b, a); });
    auto* const sum = static_cast<double*>(floats(1, 2).data);
    time("sum_of_squares", "gate_up gradient", concat(n), [&](const auto& ops, auto* b) { ops.sum_of_squares(b, gradient, sum); });
    auto* const factor = static_cast<float*>(floats(1, 1).data);
    time("clip_factor", "gradient", "1", [&](const auto& ops, auto* b) { ops.clip_factor(b, sum, 1, 1, factor); });
    buffers_.clear();
  }

  const ModelConfig& c_;
  DType dtype_;
  int64_t tokens_, repeats_;
  std::unique_ptr<ops::Device> device_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  ops::RandomBlock random_;
  PackedTokens packed_;
  std::vector<int32_t> rows_, ids_;
  std::deque<DeviceBuffer> buffers_;
  std::vector<OperationSpeed> speeds_;
};

}  // namespace

std::vector<OperationSpeed> operation_speeds(const ModelConfig& config, DType dtype, int64_t tokens, const ops::DeviceOptions& device, int64_t repeats) {
  return Measurement(config, dtype, tokens, device, repeats).run();
}

}  // namespace rlhi
