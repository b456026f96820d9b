// AdamW's split master weights. Its values and the gradient's norm at every edge are op_table/optimizer_cases.cc's.
#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::AdamWArgs;
using ops::Table;

void* moment_at(std::vector<bf16>& x, int64_t i) { return x.data() + i; }

struct State {
  explicit State(int64_t n) : weight(static_cast<size_t>(n)), m(weight.size()), v(weight.size()), grad(weight.size()) {
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = std::sin(static_cast<float>(i) * 0.7f) * 0.1f;
  }
  void next_gradient(int step) {
    for (size_t i = 0; i < grad.size(); ++i) grad[i] = std::cos(static_cast<float>(i * 3 + static_cast<size_t>(step)) * 1.3f) * 0.01f;
  }
  std::vector<float> weight, m, v, grad;
};

AdamWArgs args_of(State& s, int step, double lr) {
  AdamWArgs a;
  a.n = static_cast<int64_t>(s.weight.size());
  a.weight = s.weight.data();
  a.grad = s.grad.data(), a.m = s.m.data(), a.v = s.v.data();
  a.grad_scale = 0.5f;
  a.lr = lr, a.beta1 = 0.9, a.beta2 = 0.95, a.eps = 1e-8, a.weight_decay = 0.1;
  a.bias_correction1 = 1 - std::pow(0.9, step), a.bias_correction2 = 1 - std::pow(0.95, step);
  return a;
}

TEST("adamw on bf16 with a remainder takes the very steps of f32") {
  for (const int64_t n : {1, 5, 16, 31, 20000}) {
    on_every_backend([&](const Table& ops, ops::Backend* backend) {
      State whole(n), split(n);
      std::vector<bf16> weight(static_cast<size_t>(n));
      std::vector<int16_t> remainder(static_cast<size_t>(n));
      for (size_t i = 0; i < weight.size(); ++i) split_master(split.weight[i], weight[i], remainder[i]);
      for (int step = 1; step <= 20; ++step) {
        whole.next_gradient(step);
        split.next_gradient(step);
        ops.adamw(backend, args_of(whole, step, 1e-6));  // far below bf16's spacing
        AdamWArgs a = args_of(split, step, 1e-6);
        a.dtype = DType::bf16;
        a.weight = weight.data();
        a.remainder = remainder.data();
        ops.adamw(backend, a);
      }
      const State untouched(n);
      int64_t moved = 0;
      for (size_t i = 0; i < weight.size(); ++i) {
        EXPECT_EQ(join_master(weight[i], remainder[i]), whole.weight[i]);
        moved += whole.weight[i] != untouched.weight[i] ? 1 : 0;
      }
      EXPECT(moved > n * 9 / 10);  // a few come back to where they began
    });
  }
}

// Half the moments' memory: a stored value is one of the two neighbours of what f32 would have, and right on average.
TEST("adamw rounds bf16 moments up or down at random, without bias and the same however the elements are cut") {
  constexpr int64_t n = 40000, bounds[] = {n, 16384 + 16, 0};
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    State whole(n), parts(n);
    std::vector<bf16> m(n), v(n), m_parts(n), v_parts(n);
    for (int step = 1; step <= 3; ++step) {
      whole.next_gradient(step), parts.next_gradient(step);
      const std::vector<bf16> m_before = m, v_before = v;
      AdamWArgs a = args_of(whole, step, 1e-3);
      a.moments = DType::bf16, a.m = m.data(), a.v = v.data(), a.rounding_seed = static_cast<uint32_t>(step);
      ops.adamw(backend, a);
      double m_error = 0, v_error = 0;
      for (size_t i = 0; i < m.size(); ++i) {
        const double g = static_cast<double>(whole.grad[i]) * 0.5;
        const auto error = [](bf16 stored, double exact) {   // in units of the spacing below |exact|
          const double spacing = std::ldexp(1.0, std::max(std::ilogb(exact), -120) - 7);
          const double off = (static_cast<double>(to_float(stored)) - exact) / spacing;
          EXPECT(std::abs(off) < 1 + 1e-9 / spacing);        // f32's own rounding of a sum of up to 0.01
          return off;
        };
        m_error += error(m[i], 0.9 * static_cast<double>(to_float(m_before[i])) + 0.1 * g);
        v_error += error(v[i], 0.95 * static_cast<double>(to_float(v_before[i])) + 0.05 * g * g);
      }
      EXPECT(std::abs(m_error) < 0.02 * n);
      EXPECT(std::abs(v_error) < 0.02 * n);
      for (int half = 0; half < 2; ++half) {
        const int64_t end = bounds[half], begin = bounds[half + 1];
        AdamWArgs part = args_of(parts, step, 1e-3);
        part.moments = DType::bf16, part.rounding_seed = a.rounding_seed;
        part.n = end - begin, part.first_element = begin;
        part.weight = parts.weight.data() + begin, part.grad = parts.grad.data() + begin;
        part.m = moment_at(m_parts, begin), part.v = moment_at(v_parts, begin);
        ops.adamw(backend, part);
      }
      for (size_t i = 0; i < m.size(); ++i) {
        EXPECT_EQ(m_parts[i].bits, m[i].bits);
        EXPECT_EQ(v_parts[i].bits, v[i].bits);
        EXPECT_EQ(parts.weight[i], whole.weight[i]);
      }
    }
  });
}

TEST("adamw: a bf16 second moment decays although a step of it is below bf16's spacing") {
  constexpr int64_t n = 4096;
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    State s(n);
    std::vector<bf16> m(n), v(n, to_bf16(1.0f));
    for (int step = 1; step <= 200; ++step) {
      AdamWArgs a = args_of(s, step, 0);
      a.beta2 = 0.999;
      a.moments = DType::bf16, a.m = m.data(), a.v = v.data(), a.rounding_seed = static_cast<uint32_t>(step);
      ops.adamw(backend, a);
    }
    double mean = 0;
    for (const bf16 x : v) mean += static_cast<double>(to_float(x)) / n;
    expect_close(mean, std::pow(0.999, 200), 0.003, "mean of the second moments");
  });
}

TEST("adamw refuses bf16 weights without a remainder") {
  OpsBackend& backend = backend_of();
  State s(4);
  AdamWArgs a = args_of(s, 1, 1e-3);
  a.dtype = DType::bf16;
  EXPECT_ERROR(backend.table().adamw(backend.handle(), a), ErrorCode::invalid_argument, "remainder");
}

}  // namespace
}  // namespace rlhi::test
