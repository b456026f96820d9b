// AdamW over any number of parameters in one pass, and sums of squares in a fixed order.
#include "ops/adamw_step.h"
#include "ops/cuda/kernels/rows.cuh"
#include "ops/moment_codes.h"
#include "ops/pair_loss.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256;

// The same operations in the same order as ops/cpu/kernel_optimizer.h, each rounded by IEEE: the same bits.
RLHI_DEVICE float adamw_update(const AdamWStep& s, float weight, float grad, float& m, float& v) {
  const float g = grad * s.grad_scale;
  m = fused_multiply_add(g - m, s.one_minus_beta1, m);
  v = fused_multiply_add(g * g, s.one_minus_beta2, v * s.beta2);
  const float denominator = square_root(v) * s.inverse_sqrt_correction2 + s.eps;
  return weight * s.decay - s.step_size * (m / denominator);
}

// base/dtype.h, split_master and join_master, on words
RLHI_DEVICE float join(uint16_t weight, int16_t remainder) {
  return as_float((static_cast<uint32_t>(weight) << 16) + static_cast<uint32_t>(static_cast<int32_t>(remainder)));
}
RLHI_DEVICE void split(float f, uint16_t& weight, int16_t& remainder) {
  const uint32_t u = as_bits(f);
  weight = static_cast<uint16_t>((u + 0x8000u) >> 16);
  remainder = static_cast<int16_t>(u - (static_cast<uint32_t>(weight) << 16));
}

template <class T, int kGroup>
struct alignas(sizeof(T) * kGroup) Run {
  T x[kGroup];
};

template <int kGroup>
RLHI_DEVICE Run<float, kGroup> load_run(const void* p, bool is_f32, int64_t i) {
  if (is_f32) return load_words<Run<float, kGroup>>(static_cast<const float*>(p) + i * kGroup);
  const auto halves = load_words<Run<uint16_t, kGroup>>(static_cast<const uint16_t*>(p) + i * kGroup);
  Run<float, kGroup> run;
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) run.x[j] = as_float(static_cast<uint32_t>(halves.x[j]) << 16);
  return run;
}
// random: 16 bits an element, for bf16.
template <int kGroup>
RLHI_DEVICE void store_moments(void* p, bool is_f32, int64_t i, const Run<float, kGroup>& run, const Run<uint16_t, kGroup>& random) {
  if (is_f32) return store_words(static_cast<float*>(p) + i * kGroup, run);
  Run<uint16_t, kGroup> halves;
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) halves.x[j] = static_cast<uint16_t>((as_bits(run.x[j]) + random.x[j]) >> 16);
  store_words(static_cast<uint16_t*>(p) + i * kGroup, halves);
}

struct Gradient {
  const void* data;
  bool is_f32;
};

// False where nothing is to change.
RLHI_DEVICE bool read_scale(AdamWStep& step, const float* scale) {
  if (scale) step.grad_scale = *scale;
  return step.grad_scale == step.grad_scale;
}

struct StoredMoments {
  void *m, *v;
  bool is_f32;
  int64_t first_element;
  uint32_t rounding_seed;
};

template <int kGroup, bool kMaster>
RLHI_KERNEL(kThreads, 4)
void adamw_kernel(AdamWStep step, const float* scale, void* weight, int16_t* remainder, Gradient grad, StoredMoments moments, int64_t groups) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= groups || !read_scale(step, scale)) return;
  using Floats = Run<float, kGroup>;
  const auto g = load_run<kGroup>(grad.data, grad.is_f32, i);
  auto mi = load_run<kGroup>(moments.m, moments.is_f32, i), vi = load_run<kGroup>(moments.v, moments.is_f32, i);
  if constexpr (kMaster) {
    auto* high_at = static_cast<uint16_t*>(weight) + i * kGroup;
    auto high = load_words<Run<uint16_t, kGroup>>(high_at);
    auto low = load_words<Run<int16_t, kGroup>>(remainder + i * kGroup);
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) {
      split(adamw_update(step, join(high.x[j], low.x[j]), g.x[j], mi.x[j], vi.x[j]), high.x[j], low.x[j]);
    }
    store_words(high_at, high);
    store_words(remainder + i * kGroup, low);
  } else {
    auto* at = static_cast<float*>(weight) + i * kGroup;
    auto w = load_words<Floats>(at);
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) w.x[j] = adamw_update(step, w.x[j], g.x[j], mi.x[j], vi.x[j]);
    store_words(at, w);
  }
  Run<uint16_t, kGroup> lower = {}, upper = {};
  if (!moments.is_f32) {
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) {
      const auto index = static_cast<uint64_t>(moments.first_element + i * kGroup + j);
      const uint32_t key = rounding_key(moments.rounding_seed, static_cast<uint32_t>(index >> 32));
      const uint32_t random = hash_bits(static_cast<uint32_t>(index) * kGolden + key);
      lower.x[j] = static_cast<uint16_t>(random), upper.x[j] = static_cast<uint16_t>(random >> 16);
    }
  }
  store_moments(moments.m, moments.is_f32, i, mi, lower);
  store_moments(moments.v, moments.is_f32, i, vi, upper);
}

template <int kGroup>
void launch_adamw(const Launch& at, const AdamWStep& step, const AdamWArgs& a, int64_t begin, int64_t groups) {
  const auto from_begin = [&](void* p) { return static_cast<char*>(p) + begin * moment_size(a.moments); };
  const Gradient gradient{static_cast<const char*>(a.grad) + begin * dtype_size(a.grad_dtype), a.grad_dtype == DType::f32};
  const StoredMoments moments{from_begin(a.m), from_begin(a.v), a.moments == Moments::f32, a.first_element + begin, a.rounding_seed};
  const auto go = [&](auto kernel, void* weight, int16_t* remainder) {
    launch(at, ceil_div(groups, kThreads), kThreads, 0, kernel, step, a.grad_scale, weight, remainder, gradient, moments, groups);
  };
  if (a.dtype == DType::f32) go(adamw_kernel<kGroup, false>, static_cast<float*>(a.weight) + begin, nullptr);
  else go(adamw_kernel<kGroup, true>, static_cast<uint16_t*>(a.weight) + begin, a.remainder + begin);
}

// ---- moments of 8 bits: ops/cpu/kernel_optimizer.h's arithmetic -----------------------------------------------------------
constexpr int kCodedThreads = 64, kCodedGroup = static_cast<int>(kMomentBlock) / kCodedThreads;
struct MomentTables {
  MomentTable first = moment_table(1), second = moment_table(2);
};
struct CodedMoments {
  uint8_t *m, *v;
  float *m_scales, *v_scales;
  int64_t first_element;
  uint32_t rounding_seed;
};

RLHI_DEVICE float nearest_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }  // ties to even

RLHI_DEVICE float moment_code(const float* table, int parts, int top, float size, float random) {
  float decade = 1.0f, count = static_cast<float>(parts << (kMomentDecades - 1)), highest = 1.0f;
  RLHI_UNROLL
  for (int below = 1; below < kMomentDecades; ++below) {
    highest *= 10.0f;
    if (size < 1.0f / highest) decade = highest, count = static_cast<float>(parts << (kMomentDecades - 1 - below));
  }
  const float place = (size * decade - 0.1f) * (count * (1.0f / 0.9f)) - 0.5f, nearest = nearest_integer(place);
  const float below = (place < nearest ? nearest - 1.0f : nearest) + (count - static_cast<float>(parts - 1));
  const float code = fminf(static_cast<float>(top - 1), fmaxf(0.0f, below));
  const float low = table[static_cast<int>(code)], high = table[static_cast<int>(code) + 1];
  return code + (random * (high - low) < size - low ? 1.0f : 0.0f);
}
RLHI_DEVICE uint8_t first_moment_code(const float* table, float x, float random) {
  const float code = moment_code(table, 1, kFirstMomentTop, fminf(1.0f, fabsf(x)), random), top = static_cast<float>(kFirstMomentTop);
  return static_cast<uint8_t>(code > 0.0f && x < 0.0f ? fminf(code, top - 1.0f) + top : code);
}
RLHI_DEVICE uint8_t second_moment_code(const float* table, float x, float random) {
  return static_cast<uint8_t>(x > 0.0f ? fmaxf(1.0f, moment_code(table, 2, kSecondMomentTop, fminf(1.0f, x), random)) : 0.0f);
}
RLHI_DEVICE float inverse_or_zero(float x) { return x > 0.0f ? 1.0f / x : 0.0f; }

// A thread block for each block of moments.
template <bool kMaster>
RLHI_KERNEL(kCodedThreads, 8)
void adamw_coded_kernel(AdamWStep step, const float* scale, void* weight, int16_t* remainder, Gradient grad, CodedMoments moments, MomentTables tables, int64_t n) {
  if (!read_scale(step, scale)) return;
  auto* first_table = reinterpret_cast<float*>(shared_memory());
  float *second_table = first_table + kSecondMomentTop + 1, *tops = second_table + kSecondMomentTop + 1;
  for (int i = thread_index(); i <= kSecondMomentTop; i += kCodedThreads) first_table[i] = tables.first.value[i], second_table[i] = tables.second.value[i];
  sync_threads();
  const int64_t block = block_index();
  const float m_scale = moments.m_scales[block], v_scale = moments.v_scales[block];
  float m[kCodedGroup], v[kCodedGroup], m_top = 0, v_top = 0;
  RLHI_UNROLL
  for (int j = 0; j < kCodedGroup; ++j) {
    const int64_t i = block * kMomentBlock + j * kCodedThreads + thread_index();
    m[j] = v[j] = 0;
    if (i >= n) continue;
    const int code = moments.m[i];
    m[j] = (code > kFirstMomentTop ? -first_table[code - kFirstMomentTop] : first_table[code]) * m_scale;
    v[j] = second_table[moments.v[i]] * v_scale;
    const float g = load_run<1>(grad.data, grad.is_f32, i).x[0];
    if (kMaster) {
      uint16_t high = static_cast<uint16_t*>(weight)[i];
      int16_t low = remainder[i];
      split(adamw_update(step, join(high, low), g, m[j], v[j]), high, low);
      static_cast<uint16_t*>(weight)[i] = high, remainder[i] = low;
    } else {
      auto* w = static_cast<float*>(weight) + i;
      *w = adamw_update(step, *w, g, m[j], v[j]);
    }
    m_top = fmaxf(m_top, fabsf(m[j])), v_top = fmaxf(v_top, v[j]);
  }
  m_top = lanes_max(m_top), v_top = lanes_max(v_top);
  if (thread_index() % 32 == 0) tops[thread_index() / 32] = m_top, tops[2 + thread_index() / 32] = v_top;
  sync_threads();
  m_top = fmaxf(tops[0], tops[1]), v_top = fmaxf(tops[2], tops[3]);
  if (thread_index() == 0) moments.m_scales[block] = m_top, moments.v_scales[block] = v_top;
  const float m_inverse = inverse_or_zero(m_top), v_inverse = inverse_or_zero(v_top);
  RLHI_UNROLL
  for (int j = 0; j < kCodedGroup; ++j) {
    const int64_t i = block * kMomentBlock + j * kCodedThreads + thread_index();
    if (i >= n) continue;
    const auto index = static_cast<uint64_t>(moments.first_element + i);
    const uint32_t key = rounding_key(moments.rounding_seed, static_cast<uint32_t>(index >> 32));
    const uint32_t random = hash_bits(static_cast<uint32_t>(index) * kGolden + key);
    moments.m[i] = first_moment_code(first_table, m[j] * m_inverse, static_cast<float>(random & 0xffffu) * (1.0f / 65536.0f));
    moments.v[i] = second_moment_code(second_table, v[j] * v_inverse, static_cast<float>(random >> 16) * (1.0f / 65536.0f));
  }
}

void launch_coded(const Launch& at, const AdamWStep& step, const AdamWArgs& a) {
  const CodedMoments moments{static_cast<uint8_t*>(a.m), static_cast<uint8_t*>(a.v), a.m_scales, a.v_scales, a.first_element, a.rounding_seed};
  const auto kernel = a.dtype == DType::f32 ? adamw_coded_kernel<false> : adamw_coded_kernel<true>;
  const size_t shared = (2 * (kSecondMomentTop + 1) + 2 * kCodedThreads / 32) * sizeof(float);
  launch(at, ceil_div(a.n, kMomentBlock), kCodedThreads, shared, kernel, step, a.grad_scale, a.weight, a.remainder, Gradient{a.grad, a.grad_dtype == DType::f32}, moments,
         MomentTables(), a.n);
}

constexpr int64_t kSquaresPerBlock = 65536;  // elements of one partial sum

template <bool kF32>
RLHI_KERNEL(kThreads, 4)
void squares_kernel(const void* x, int64_t n, bool vectors, double* partial) {
  auto* scratch = reinterpret_cast<double*>(shared_memory());
  const int64_t begin = static_cast<int64_t>(block_index()) * kSquaresPerBlock;
  const int64_t end = begin + kSquaresPerBlock < n ? begin + kSquaresPerBlock : n;
  double sums[4] = {};
  int64_t i = begin + thread_index() * 4;
  const auto add = [&](int j, float f) { sums[j] += static_cast<double>(f) * static_cast<double>(f); };
  RLHI_UNROLL_BY(4)
  for (; i + 4 <= end; i += kThreads * 4) {
    if (vectors) {
      const auto run = load_run<4>(x, kF32, i / 4);
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) add(j, run.x[j]);
    } else {
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) add(j, load_run<1>(x, kF32, i + j).x[0]);
    }
  }
  for (int j = 0; j < 4 && i + j < end; ++j) add(j, load_run<1>(x, kF32, i + j).x[0]);
  const double sum = block_sum<kThreads>((sums[0] + sums[2]) + (sums[1] + sums[3]), scratch);
  if (thread_index() == 0) partial[block_index()] = sum;
}

RLHI_KERNEL(kThreads, 4)
void add_squares_kernel(const double* partial, int64_t n, double* result) {
  auto* scratch = reinterpret_cast<double*>(shared_memory());
  double sum = 0;
  for (int64_t i = thread_index(); i < n; i += kThreads) sum += partial[i];
  sum = block_sum<kThreads>(sum, scratch);
  if (thread_index() == 0) *result = sum;
}

RLHI_KERNEL(32, 1)
void clip_kernel(const double* squares, int64_t n, double max_norm, float* factor) {
  if (thread_index() > 0) return;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += squares[i];
  *factor = clip_factor_of(sum, max_norm, *factor);
}

}  // namespace

void adamw(const Launch& at, const AdamWArgs& a) {
  if (a.n <= 0) return;
  const AdamWStep step = adamw_step(a);
  if (a.moments == Moments::coded) return launch_coded(at, step, a);
  bool vectors = true;
  for (const void* p : std::initializer_list<const void*>{a.grad, a.m, a.v, a.weight, a.remainder}) {
    vectors = vectors && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  }
  const int64_t whole = vectors ? a.n / 4 * 4 : 0;
  launch_adamw<4>(at, step, a, 0, whole / 4);
  launch_adamw<1>(at, step, a, whole, a.n - whole);
}

size_t sum_of_squares_scratch(int64_t n) { return static_cast<size_t>(ceil_div(n, kSquaresPerBlock)) * sizeof(double); }

void sum_of_squares(const Launch& at, const void* x, DType dtype, int64_t n, void* scratch, double* result) {
  const int64_t blocks = ceil_div(n, kSquaresPerBlock);
  auto* partial = static_cast<double*>(scratch);
  const size_t shared = kThreads / 32 * sizeof(double);
  const bool vectors = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  if (dtype == DType::f32) launch(at, blocks, kThreads, shared, squares_kernel<true>, x, n, vectors, partial);
  else launch(at, blocks, kThreads, shared, squares_kernel<false>, x, n, vectors, partial);
  launch(at, 1, kThreads, shared, add_squares_kernel, static_cast<const double*>(partial), blocks, result);
}

void clip_factor(const Launch& at, const double* squares, int64_t n, double max_norm, float* factor) {
  launch(at, 1, 32, 0, clip_kernel, squares, n, max_norm, factor);
}

}  // namespace rlhi::ops::cuda
