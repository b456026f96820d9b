// AdamW's split master weights. Its values and the gradient's norm at every edge are op_table/optimizer_cases.cc's.
#include "ops/moment_codes.h"
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
  static float scale = 0.5f;
  a.grad_scale = &scale;
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
      a.moments = ops::Moments::bf16, a.m = m.data(), a.v = v.data(), a.rounding_seed = static_cast<uint32_t>(step);
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
        part.moments = ops::Moments::bf16, part.rounding_seed = a.rounding_seed;
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
      a.moments = ops::Moments::bf16, a.m = m.data(), a.v = v.data(), a.rounding_seed = static_cast<uint32_t>(step);
      ops.adamw(backend, a);
    }
    double mean = 0;
    for (const bf16 x : v) mean += static_cast<double>(to_float(x)) / n;
    expect_close(mean, std::pow(0.999, 200), 0.003, "mean of the second moments");
  });
}

// ---- moments of 8 bits -----------------------------------------------------------------------------------------------
constexpr ops::MomentTable kFirst = ops::moment_table(1), kSecond = ops::moment_table(2);

struct CodedState {
  explicit CodedState(int64_t n)
      : m(static_cast<size_t>(n)), v(m.size()), m_scales(static_cast<size_t>((n + ops::kMomentBlock - 1) / ops::kMomentBlock)), v_scales(m_scales.size()) {}
  void give_to(AdamWArgs& a, int step) {
    a.moments = ops::Moments::coded, a.rounding_seed = static_cast<uint32_t>(step);
    a.m = m.data(), a.v = v.data(), a.m_scales = m_scales.data(), a.v_scales = v_scales.data();
  }
  double first(size_t i) const {
    const int code = m[i], size = code > ops::kFirstMomentTop ? code - ops::kFirstMomentTop : code;
    return static_cast<double>(kFirst.value[size]) * static_cast<double>(m_scales[i / ops::kMomentBlock]) * (code > ops::kFirstMomentTop ? -1 : 1);
  }
  double second(size_t i) const { return static_cast<double>(kSecond.value[v[i]]) * static_cast<double>(v_scales[i / ops::kMomentBlock]); }
  std::vector<uint8_t> m, v;
  std::vector<float> m_scales, v_scales;
};

TEST("adamw: the table of 8-bit moments rises from zero to one, two parts to the decade where values are largest doubled") {
  for (const auto& [table, top] : {std::pair{kFirst, ops::kFirstMomentTop}, std::pair{kSecond, ops::kSecondMomentTop}}) {
    EXPECT_EQ(table.value[0], 0.0f);
    EXPECT_EQ(table.value[top], 1.0f);
    for (int i = 0; i < top; ++i) EXPECT(table.value[i] < table.value[i + 1]);
  }
  EXPECT_NEAR(kFirst.value[1], 5.5e-7, 1e-12);
  EXPECT_NEAR(kFirst.value[127], 0.1 + 0.9 * 63.5 / 64, 1e-7);
  EXPECT_NEAR(kSecond.value[254], 0.1 + 0.9 * 127.5 / 128, 1e-7);
}

// A stored value is one of the table's two around what f32 would have, and right on average.
TEST("adamw codes moments in 8 bits, up or down at random, without bias and the same however whole blocks are cut") {
  constexpr int64_t n = 20'100, bounds[] = {n, 16384 + 256, 0};
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    State whole(n), parts(n), exact(n);
    CodedState coded(n), coded_parts(n);
    for (int step = 1; step <= 4; ++step) {
      for (State* s : {&whole, &parts, &exact}) {
        s->next_gradient(step);
        for (size_t i = 0; i < s->grad.size(); ++i) s->grad[i] *= std::pow(10.0f, -static_cast<float>(i % 7) / 2);
      }
      const CodedState before = coded;
      AdamWArgs a = args_of(whole, step, 1e-3);
      coded.give_to(a, step);
      ops.adamw(backend, a);
      if (step == 1) {                           // moments were zero
        ops.adamw(backend, args_of(exact, step, 1e-3));
        EXPECT(whole.weight == exact.weight);
      }
      double m_error = 0, v_error = 0;
      for (size_t i = 0; i < coded.m.size(); ++i) {
        const double g = static_cast<double>(whole.grad[i]) * 0.5;
        const auto error = [](const ops::MomentTable& table, int top, int size, double stored, double exact_value, double scale) {
          const double low = scale * static_cast<double>(table.value[std::max(0, size - 1)]), high = scale * static_cast<double>(table.value[std::min(top, size + 1)]);
          EXPECT(exact_value >= low - 1e-6 * scale && exact_value <= high + 1e-6 * scale);
          return (stored - exact_value) / scale;
        };
        const int m_code = coded.m[i], m_size = m_code > ops::kFirstMomentTop ? m_code - ops::kFirstMomentTop : m_code;
        const double m = 0.9 * before.first(i) + 0.1 * g, v = 0.95 * before.second(i) + 0.05 * g * g;
        m_error += error(kFirst, ops::kFirstMomentTop, m_size, std::abs(coded.first(i)), std::abs(m), static_cast<double>(coded.m_scales[i / ops::kMomentBlock]));
        v_error += error(kSecond, ops::kSecondMomentTop, coded.v[i], coded.second(i), v, static_cast<double>(coded.v_scales[i / ops::kMomentBlock]));
        EXPECT(coded.v[i] > 0 || v == 0);
      }
      EXPECT(std::abs(m_error) < 1e-4 * n);      // of parts as large as 0.014 of the scale
      EXPECT(std::abs(v_error) < 1e-4 * n);
      for (int half = 0; half < 2; ++half) {
        const int64_t end = bounds[half], begin = bounds[half + 1];
        AdamWArgs part = args_of(parts, step, 1e-3);
        coded_parts.give_to(part, step);
        part.n = end - begin, part.first_element = begin;
        part.weight = parts.weight.data() + begin, part.grad = parts.grad.data() + begin;
        part.m = coded_parts.m.data() + begin, part.v = coded_parts.v.data() + begin;
        part.m_scales += begin / ops::kMomentBlock, part.v_scales += begin / ops::kMomentBlock;
        ops.adamw(backend, part);
      }
      EXPECT(coded_parts.m == coded.m && coded_parts.v == coded.v);
      EXPECT(coded_parts.m_scales == coded.m_scales && coded_parts.v_scales == coded.v_scales);
      EXPECT(parts.weight == whole.weight);
    }
  });
}

TEST("adamw: 8-bit moments of elements without a gradient decay, and their steps with them") {
  constexpr int64_t n = 512;
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    State s(n);
    CodedState coded(n);
    std::vector<double> v_before;
    for (int step = 1; step <= 120; ++step) {
      for (size_t i = 0; i < s.grad.size(); ++i) s.grad[i] = i % 64 == 0 ? 1.0f : step == 1 ? 1e-3f : 0.0f;   // beside some that go on
      const std::vector<float> weights = s.weight;
      AdamWArgs a = args_of(s, step, 1e-3);
      a.weight_decay = 0;
      coded.give_to(a, step);
      ops.adamw(backend, a);
      double largest = 0, sum = 0;
      for (size_t i = 0; i < s.weight.size(); ++i) {
        largest = std::max(largest, static_cast<double>(std::abs(s.weight[i] - weights[i])));
        if (i % 64 != 0) sum += coded.first(i);
      }
      EXPECT(largest < 4e-3);                    // no first moment is divided by a second one that was lost
      if (step == 60) EXPECT(sum / n < 1e-5);
    }
  });
}

// Any kind of moments, weights in f32 or bf16 with a remainder; elements from kFirst on of a larger whole.
struct AnyState {
  AnyState(int64_t n, DType dtype, ops::Moments moments)
      : plain(n), dtype(dtype), moments(moments), half(static_cast<size_t>(n)), remainder(half.size()), m(half.size() * static_cast<size_t>(moment_size(moments))), v(m.size()),
        m_scales(half.size() / ops::kMomentBlock + 1), v_scales(m_scales.size()) {
    for (size_t i = 0; i < half.size(); ++i) split_master(plain.weight[i], half[i], remainder[i]);
  }
  AdamWArgs args(int step) {
    plain.next_gradient(step);
    AdamWArgs a = args_of(plain, step, 1e-3);
    a.dtype = dtype, a.moments = moments, a.first_element = 3 * 4096, a.rounding_seed = static_cast<uint32_t>(step);
    if (dtype == DType::bf16) a.weight = half.data(), a.remainder = remainder.data();
    a.m = m.data(), a.v = v.data();
    if (moments == ops::Moments::coded) a.m_scales = m_scales.data(), a.v_scales = v_scales.data();
    return a;
  }
  bool operator==(const AnyState& o) const {
    return plain.weight == o.plain.weight && std::memcmp(half.data(), o.half.data(), half.size() * sizeof(bf16)) == 0 && remainder == o.remainder && m == o.m &&
           v == o.v && m_scales == o.m_scales && v_scales == o.v_scales;
  }
  State plain;
  DType dtype;
  ops::Moments moments;
  std::vector<bf16> half;
  std::vector<int16_t> remainder;
  std::vector<char> m, v;
  std::vector<float> m_scales, v_scales;
};

TEST("adamw: moments in host memory give the bits of moments on the device, in any number of pieces") {
  constexpr int64_t n = 4100;
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const ops::Moments moments : {ops::Moments::f32, ops::Moments::bf16, ops::Moments::coded}) {
        const AnyState untouched(n, dtype, moments);
        AnyState on_device(n, dtype, moments);
        std::vector<AnyState> on_host(4, untouched);
        constexpr int64_t pieces[] = {256, 1536, 2048, ops::kMomentPiece};   // 17, 3, 3 and 1 of them
        for (int step = 1; step <= 3; ++step) {
          ops.adamw(backend, on_device.args(step));
          for (size_t i = 0; i < on_host.size(); ++i) {
            AdamWArgs a = on_host[i].args(step);
            a.moments_on_host = true, a.moment_piece = pieces[i];
            ops.adamw(backend, a);
            EXPECT(on_host[i] == on_device);
          }
        }
        EXPECT(!(on_device == untouched));
      }
    }
  });
}

TEST("adamw refuses pieces of moments that cut a block of them") {
  OpsBackend& backend = backend_of();
  State s(4);
  AdamWArgs a = args_of(s, 1, 1e-3);
  a.moments_on_host = true;
  for (const int64_t piece : {int64_t{0}, int64_t{-256}, int64_t{300}}) {
    a.moment_piece = piece;
    EXPECT_ERROR(backend.table().adamw(backend.handle(), a), ErrorCode::invalid_argument, concat("pieces of ", piece, " moments"));
  }
}

TEST("adamw refuses coded moments without scales") {
  OpsBackend& backend = backend_of();
  State s(4);
  CodedState coded(4);
  AdamWArgs a = args_of(s, 1, 1e-3);
  coded.give_to(a, 1);
  a.v_scales = nullptr;
  EXPECT_ERROR(backend.table().adamw(backend.handle(), a), ErrorCode::invalid_argument, "scales");
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
