// Inside the CPU backend: what its drivers share.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "base/trace.h"
#include "ops/checks.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/sampler.h"
#include "ops/ops.h"

namespace rlhi::ops {

// 64-byte aligned memory that grows and is reused; its contents are not kept when it grows.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(Scratch&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr, other.bytes_ = 0; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Throws out_of_memory.
  void* bytes(size_t n);
  float* floats(int64_t n) { return static_cast<float*>(bytes(static_cast<size_t>(n) * sizeof(float))); }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

const Kernels& kernels_of(CpuIsa isa);      // throws unsupported where this machine cannot run them
const TileKernels* tiles_of(CpuIsa isa);    // nullptr where products of bf16 are made by widening to f32

void* aligned_allocate(size_t bytes);  // 64-byte aligned, nullptr where the system has none
void aligned_release(void* memory);

// Segments [first, first + count) of a call of attention, whose first `shared` key spans are the same.
struct DecodeGroup {
  int64_t first = 0;
  int count = 1, shared = 0;
};
struct AttentionTask {
  DecodeGroup group;                     // or one segment, of which
  int64_t first_column;                  // is a tile's first; -1: the task is the group
  int kv_head, kv_heads;
};

struct Backend {
  Backend(CpuIsa isa, int threads) : Backend(kernels_of(isa), tiles_of(isa), threads) {}
  Backend(const Kernels& kernels, const TileKernels* tiles, int threads, LoopRunner* runner = nullptr)
      : kernels(kernels), tiles(tiles), pool(threads, runner), local(static_cast<size_t>(threads)) {}

  const Kernels& kernels;
  const TileKernels* tiles;              // of products with a bf16 factor, or null: the factor is widened to f32
  ThreadPool pool;
  // Shared between threads, one a purpose: an operation that calls another must not lose its own.
  Scratch pack_a, pack_b, bias, gate_up;  // gemm
  Scratch logits, statistics, gradient;  // linear_logprob
  Scratch partial;                       // sums of chunks of rows
  Scratch key_gradients;                 // attention_backward
  std::vector<AttentionTask> attention_tasks;
  std::vector<Scratch> local;            // one a thread, within one task
  std::vector<Sampler> samplers;         // one a thread, once tokens are chosen
  std::unique_ptr<Trace> trace;          // null: nobody asked
};

inline int64_t ceil_of(int64_t x, int64_t by) { return (x + by - 1) / by; }
inline int64_t round_up(int64_t x, int64_t to) { return ceil_of(x, to) * to; }

// Whether rows x cols panels cut into row_parts x col_parts tasks give no thread more than a tenth above the mean, by a bound: whoever
// takes the last task had no more than the mean before it.
inline bool shares_evenly(int64_t rows, int64_t cols, int64_t row_parts, int64_t col_parts, int64_t threads) {
  const auto largest = static_cast<double>(ceil_of(rows, row_parts) * ceil_of(cols, col_parts));
  const double mean = static_cast<double>(rows * cols) / static_cast<double>(threads);
  const double rounds = static_cast<double>(ceil_of(row_parts * col_parts, threads));
  return std::min(rounds * largest, mean + largest * (1 - 1 / static_cast<double>(threads))) <= 1.1 * mean;
}

// Rows cut into panels whose heights differ by one at most.
struct RowPanels {
  RowPanels(int64_t rows, int height) : rows(rows), count((rows + height - 1) / height), base(count ? rows / count : 0),
      extra(count ? rows % count : 0) {}
  int64_t begin(int64_t i) const { return i * base + std::min(i, extra); }
  int size(int64_t i) const { return static_cast<int>(base + (i < extra ? 1 : 0)); }
  int64_t rows, count, base, extra;
};

// Into how many tasks n items go, about `grain` of them each: where they are not few, as many for every thread.
inline int64_t range_tasks(int64_t n, int64_t grain, int64_t threads) {
  const int64_t tasks = (n + grain - 1) / std::max<int64_t>(1, grain);
  return std::min(n, tasks > 1 && 4 * tasks >= threads ? round_up(tasks, threads) : tasks);
}

// Cuts n items into tasks of about `grain` items, whole units but for the last, and runs f(begin, end, thread); one task runs without
// waking anybody.
template <class F>
void for_ranges(Backend& backend, int64_t n, int64_t grain, const F& f, int64_t unit = 1) {
  if (n <= 0) return;
  const int64_t units = (n + unit - 1) / unit, tasks = range_tasks(units, std::max<int64_t>(1, grain / unit), backend.pool.threads());
  backend.pool.parallel_for(tasks, [&](int64_t task, int thread) {
    f(task * units / tasks * unit, std::min(n, (task + 1) * units / tasks * unit), thread);
  });
}
constexpr int64_t kLineElements = 64;  // a unit that begins a cache line, whatever the element

// A product's panels cut along k for packing, into so many pieces each that few panels make work for every thread.
struct PanelPieces {
  PanelPieces(int64_t panels, int64_t threads, int64_t k)
      : k(k), count(std::clamp<int64_t>((8 * threads + panels - 1) / std::max<int64_t>(1, panels), 1, std::max<int64_t>(1, k / kShortest))) {}
  int64_t begin(int64_t piece) const { return std::min(k, piece * ((k + kUnit - 1) / kUnit) / count * kUnit); }
  static constexpr int64_t kShortest = 128, kUnit = 32;
  int64_t k, count;
};

// Rows that make a task worth handing out: about 32 K elements.
inline int64_t row_grain(int64_t cols) { return cols >= 32768 ? 1 : 32768 / (cols > 0 ? cols : 1); }

inline char* row_pointer(const Tensor& t, int64_t row, int64_t col = 0) {
  return static_cast<char*>(t.data) + (row * t.row_stride + col) * dtype_size(t.dtype);
}

// A row as floats: the row itself where it is f32, else converted into `buffer`.
inline const float* read_row(const Kernels& kernels, const Tensor& t, int64_t row, int64_t col, int64_t n, float* buffer) {
  const char* p = row_pointer(t, row, col);
  if (t.dtype == DType::f32) return reinterpret_cast<const float*>(p);
  kernels.convert(buffer, DType::f32, p, t.dtype, n, 1.0f);
  return buffer;
}
// Where to write a row's floats; store_row brings them home.
inline float* row_buffer(const Tensor& t, int64_t row, int64_t col, float* buffer) {
  return t.dtype == DType::f32 ? reinterpret_cast<float*>(row_pointer(t, row, col)) : buffer;
}
inline void store_row(const Kernels& kernels, const Tensor& t, int64_t row, int64_t col, int64_t n, const float* buffer) {
  if (t.dtype != DType::f32) kernels.convert(row_pointer(t, row, col), t.dtype, buffer, DType::f32, n, 1.0f);
}

// ---- the operations, by file ----
// gemm.cc
size_t packed_bytes(Backend*, DType dtype, int64_t n, int64_t k);
void pack_weight(Backend*, PackedWeight* to, Tensor w);
void gemm(Backend*, const GemmArgs& args);
int64_t packed_offset(const Backend&, const PackedWeight& w, int64_t column);  // bytes to a column that is a multiple of 2048
// gemm_tiles.cc: what gemm.cc hands on where the backend has tiles; arguments are checked
size_t packed_tile_bytes(int64_t n, int64_t k);
void pack_weight_tiles(Backend*, void* to, const Tensor& w);
void gemm_tiles(Backend*, const GemmArgs& args, int64_t m, int64_t n, int64_t k);
// A product h W^T [m, n] whose sums are the logits of the vocabulary's columns from `first_column` on, and what they serve, for every row:
//   forward (maxima given): of each group of kHeadPanels panels of columns the maximum and the sum of exponentials against it, and the
//     target's logit where it is among them; c is empty
//   backward: c [m, n] bf16 = dlogps (onehot(target) - exp(logit - lse))
constexpr int64_t kHeadPanels = 8;
struct HeadSink {
  const int32_t* targets = nullptr;      // [m]
  int64_t first_column = 0;              // backward; forward has all columns
  int64_t groups = 0;
  float *maxima = nullptr, *sums = nullptr;    // [m, groups]
  float* target_logits = nullptr;        // [m]
  const float *lse = nullptr, *dlogps = nullptr;  // [m]
};
void head_tiles(Backend*, const GemmArgs& args, const HeadSink& head, int64_t m, int64_t n, int64_t k);
// linear_logprob_tiles.cc
void linear_logprob_tiles(Backend*, const LinearLogprobArgs& args);
void head_gradient_tiles(Backend*, const LinearLogprobBackwardArgs& args, int64_t first, int64_t count, const Tensor& gradient);
// rows.cc
void copy(Backend*, Tensor to, Tensor from);
void gather_rows(Backend*, Tensor to, Tensor from, const int32_t* index);
void scatter_rows(Backend*, Tensor to, Tensor from, const int32_t* index);
void scatter_add_rows(Backend*, Tensor to, Tensor from, const int32_t* index);
void add(Backend*, Tensor to, Tensor from);
void column_sum(Backend*, Tensor to, Tensor from);
void embedding(Backend*, Tensor out, Tensor table, const int32_t* ids);
// model_rows.cc
void rms_norm(Backend*, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x);
void rms_norm_backward(Backend*, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups, bool accumulate);
void rope(Backend*, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction);
void swiglu(Backend*, Tensor out, Tensor gate_up);
void swiglu_backward(Backend*, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out);
// attention.cc, attention_backward.cc
void attention(Backend*, const AttentionArgs& args);
void attention_backward(Backend*, const AttentionBackwardArgs& args);
// linear_logprob.cc
// h W^T to c, of the vocabulary's columns [first, first + count); `first` is a multiple of 2048. `part` is what a packed W's columns are named by.
GemmArgs head_product(const Backend&, const LinearLogprobArgs& args, int64_t first, int64_t count, const Tensor& c, PackedWeight& part);
void linear_logprob(Backend*, const LinearLogprobArgs& args);
void linear_logprob_backward(Backend*, const LinearLogprobBackwardArgs& args);
// preference_loss.cc
void preference_loss(Backend*, const PreferenceLossArgs& args);
// optimizer.cc
void adamw(Backend*, const AdamWArgs& args);
void choose_tokens(Backend*, Tensor logits, const TokenChoice* choices, int64_t n, ChosenToken* chosen);
void sum_of_squares(Backend*, Tensor x, double* sum);
void clip_factor(Backend*, const double* squares, int64_t n, double max_norm, float* factor);

}  // namespace rlhi::ops
