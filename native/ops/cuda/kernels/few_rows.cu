// Products of few rows, which are bound by reading the weight: y = x W^T with up to kFewRows rows of x (decoding).
//
// A block takes 64 features a warpgroup and all rows; chunks of 64 columns of W and x pass through shared memory in a ring deep
// enough to keep memory busy. The weight is the left factor, so that a tile has as many columns as there are rows. An element is
// one sum over k in steps of 16 in ascending order, as tensor cores take them: cuBLASLt's algorithms that do not split the sum
// add alike, so whether a product has the bits of theirs can be had by trial (gemm_trial.h).
#include "ops/checks.h"
#include "ops/cuda/kernels/attention_products.cuh"
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kChunk = 64;                      // columns of W and x a step

struct FewRows {
  const void *x, *w;
  int64_t x_stride, w_stride;                   // elements
  Rows y, bias;
  int rows, features, depth;                    // features of y
  int second;                                   // first feature of the second warpgroup's, from the first's
  bool accumulate;
};

template <int kGroups, int kRows, bool kDeep>
struct FewRowsMemory {
  static constexpr int weights = tile_bytes(kGroupRows, kChunk), stage = kGroups * weights + tile_bytes(kRows, kChunk),
                       stages = (kDeep ? 208 << 10 : 104 << 10) / stage, sum_stride = kGroups * kGroupRows + 4, sums = kRows * sum_stride * 4,
                       bytes = stages * stage > sums ? stages * stage : sums;
};

// kGated: the first warpgroup's features are gates and the second's their ups; y is what SwiGLU makes of them.
template <int kGroups, int kRows, bool kDeep, bool kGated, bool kGroupForm>
RLHI_KERNEL(kGroups * kGroupThreads, kDeep ? 1 : 2)
void few_rows_kernel(FewRows in) {
  constexpr int kThreads = kGroups * kGroupThreads, kFragments = kRows < 64 ? kRows / 8 : 8, kParts = kRows / (8 * kFragments);
  using P = Products<kGroupForm || RLHI_GROUP_PRODUCTS>;
  using Memory = FewRowsMemory<kGroups, kRows, kDeep>;
  constexpr int kStages = Memory::stages;
  unsigned char* const memory = shared_memory();
  const int group = thread_index() / kGroupThreads, chunks = in.depth / kChunk;
  const int block_first = block_index() * (kGated ? kGroupRows : kGroups * kGroupRows), first = block_first + group * in.second;
  const int own_features = least(kGroupRows, (kGated ? in.features : in.features - group * kGroupRows) - block_first);
  const auto stage_of = [&](int step) { return memory + step % kStages * Memory::stage; };
  const auto load = [&](int step) {
    if (step < chunks) {
      unsigned char* const stage = stage_of(step);
      if (own_features > 0) load_tile<kGroupRows, kChunk, kGroupThreads>(stage + group * Memory::weights, bf16_row(in.w, in.w_stride, first, step * kChunk), in.w_stride, own_features);
      load_tile<kRows, kChunk, kThreads>(stage + kGroups * Memory::weights, bf16_row(in.x, in.x_stride, 0, step * kChunk), in.x_stride, in.rows);
    }
    copy_commit();
  };

  float sums[kParts * kFragments][4] = {};
  for (int step = 0; step < kStages - 2; ++step) load(step);
  for (int step = 0; step < chunks; ++step) {
    copy_wait<kStages - 3>();
    P::loaded();
    sync_threads();                             // the step is there, and nobody reads that of two steps before
    unsigned char* const stage = stage_of(step);
    P::begin(sums);
    RLHI_UNROLL
    for (int part = 0; part < kParts; ++part) {
      P::template add_rows<kGroupRows, kRows>(fragments_at<kFragments>(sums, part * kFragments), stage + group * Memory::weights, stage + kGroups * Memory::weights, part * 8 * kFragments);
    }
    P::commit();
    load(step + kStages - 2);
    P::template wait<1>();
  }
  P::template wait<0>();
  P::end(sums);
  copy_wait<0>();
  sync_threads();

  // By rows, through shared memory, so that a row's features are written together.
  float* const turned = reinterpret_cast<float*>(memory);
  const int feature = thread_index() / 32 * 16 + thread_index() % 32 / 4, row = thread_index() % 4 * 2;
  RLHI_UNROLL
  for (int n = 0; n < kParts * kFragments; ++n) {
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) turned[(n * 8 + row + j % 2) * Memory::sum_stride + feature + j / 2 * 8] = sums[n][j];
  }
  sync_threads();
  constexpr int kWide = kGated ? kGroupRows : kGroups * kGroupRows, kUnits = kWide / 4;
  for (int i = thread_index(); i < in.rows * kUnits; i += kThreads) {
    const int r = i / kUnits, f = i % kUnits * 4, to = block_first + f;
    const float* const sum = turned + r * Memory::sum_stride + f;
    if (to >= in.features) continue;            // features are a multiple of 4
    float v[4], other[4];
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) v[j] = sum[j];
    if (kGated) {
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) {
        const float gate = in.y.is_f32 ? v[j] : round_bf16(v[j]), up = in.y.is_f32 ? sum[kGroupRows + j] : round_bf16(sum[kGroupRows + j]);
        v[j] = gated(gate, up);
      }
    }
    if (in.bias) {
      load_floats(other, in.bias.at(0, to), in.bias.is_f32);
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) v[j] += other[j];
    }
    if (in.accumulate) {
      load_floats(other, in.y.at(r, to), in.y.is_f32);
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) v[j] += other[j];
    }
    store_floats(in.y.at(r, to), in.y.is_f32, v);
  }
}

template <int kGroups, int kRows, bool kDeep, bool kGated>
void launch_few_rows(const Launch& at, const FewRows& in) {
  const int features_a_block = kGated ? kGroupRows : kGroups * kGroupRows;
  with_product_form([&](auto form) {
    launch(at, ceil_div(in.features, features_a_block), kGroups * kGroupThreads, FewRowsMemory<kGroups, kRows, kDeep>::bytes,
           few_rows_kernel<kGroups, kRows, kDeep, kGated, decltype(form)::value>, in);
  });
}
bool fills_by_pairs(const Launch& at, int64_t features) { return features >= 2 * kGroupRows * at.multiprocessors; }

// Two warpgroups share what they read of x, where there are blocks for all multiprocessors even so. One alone takes more of the
// memory of its multiprocessor where it has that for itself.
template <int kRows>
void launch_few_rows(const Launch& at, const FewRows& in, bool gated) {
  constexpr bool kDeepOnly = kRows == kFewRows; // two blocks' rings of so many rows do not fit
  if (gated) return launch_few_rows<2, kRows, true, true>(at, in);
  if (fills_by_pairs(at, in.features)) return launch_few_rows<2, kRows, true, false>(at, in);
  if (kDeepOnly || in.features <= kGroupRows * at.multiprocessors) return launch_few_rows<1, kRows, true, false>(at, in);
  launch_few_rows<1, kRows, kDeepOnly, false>(at, in);
}

static_assert(FewRowsMemory<2, kFewRows, true>::bytes <= 227 << 10 && FewRowsMemory<1, 64, false>::bytes <= 113 << 10);

}  // namespace

bool takes_few_rows(const GemmArgs& g) {
  const auto starts_well = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; };
  const auto reads = [&](const Tensor& t) { return t.dtype == DType::bf16 && starts_well(t) && t.row_stride % 8 == 0; };
  return g.form == GemmForm::nt && reads(g.a) && reads(g.b) && g.a.rows <= kFewRows && g.a.cols > 0 && g.a.cols % kChunk == 0 && g.c.cols % 4 == 0 &&
         starts_well(g.c) && g.c.row_stride % 4 == 0 && (!g.bias || starts_well(g.bias)) && !(g.bias && g.accumulate) &&
         largest_shared_memory() >= FewRowsMemory<2, kFewRows, true>::bytes;
}

bool fills_by_few_rows(const Launch& at, const GemmArgs& g) { return fills_by_pairs(at, g.c.cols); }

void few_rows_product(const Launch& at, const GemmArgs& g) {
  FewRows in;
  in.x = g.a.data, in.w = g.b.data;
  in.x_stride = g.a.row_stride, in.w_stride = g.b.row_stride;
  in.y = g.c;
  if (g.bias) in.bias = g.bias;
  in.rows = static_cast<int>(g.a.rows), in.features = static_cast<int>(g.c.cols), in.depth = static_cast<int>(g.a.cols);
  in.second = g.swiglu_c ? in.features : kGroupRows;
  in.accumulate = g.accumulate;
  if (in.rows <= 32) launch_few_rows<32>(at, in, g.swiglu_c);
  else if (in.rows <= 64) launch_few_rows<64>(at, in, g.swiglu_c);
  else launch_few_rows<kFewRows>(at, in, g.swiglu_c);
}

}  // namespace rlhi::ops::cuda
