// AdamW over any number of parameters in one pass, and sums of squares in a fixed order.
#include "ops/adamw_step.h"
#include "ops/cuda/kernels/rows.cuh"

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

struct Moments {
  void *m, *v;
  bool is_f32;
  int64_t first_element;
  uint32_t rounding_seed;
};

template <int kGroup, bool kMaster>
RLHI_KERNEL(kThreads, 4)
void adamw_kernel(AdamWStep step, void* weight, int16_t* remainder, Gradient grad, Moments moments, int64_t groups) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= groups) return;
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
  const auto from_begin = [&](void* p) { return static_cast<char*>(p) + begin * dtype_size(a.moments); };
  const Gradient gradient{static_cast<const char*>(a.grad) + begin * dtype_size(a.grad_dtype), a.grad_dtype == DType::f32};
  const Moments moments{from_begin(a.m), from_begin(a.v), a.moments == DType::f32, a.first_element + begin, a.rounding_seed};
  const auto go = [&](auto kernel, void* weight, int16_t* remainder) {
    launch(at, ceil_div(groups, kThreads), kThreads, 0, kernel, step, weight, remainder, gradient, moments, groups);
  };
  if (a.dtype == DType::f32) go(adamw_kernel<kGroup, false>, static_cast<float*>(a.weight) + begin, nullptr);
  else go(adamw_kernel<kGroup, true>, static_cast<uint16_t*>(a.weight) + begin, a.remainder + begin);
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

}  // namespace

void adamw(const Launch& at, const AdamWArgs& a) {
  if (a.n <= 0) return;
  const AdamWStep step = adamw_step(a);
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

}  // namespace rlhi::ops::cuda
