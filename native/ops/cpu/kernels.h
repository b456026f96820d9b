// What one instruction set offers: loops over plain memory, without threads, scratch allocation or errors. The drivers
// (gemm.cc, attention.cc, ...) cut work into these calls and are compiled once, for the baseline instruction set.
//
// The units that implement this table are compiled with instruction-set flags, so they must not define anything the linker could
// share with another unit: everything in the kernel_*.h and vector_*.h headers is in an anonymous namespace, and they use
// no inline function of the standard library or of base/.
#pragma once
#include <cstdint>

#include "base/tensor.h"
#include "ops/adamw_step.h"

namespace rlhi::ops {

constexpr int kMaxTileRows = 16;   // upper bounds of Kernels::mr and nr
constexpr int kMaxTileCols = 32;
constexpr int kScoreStride = 64;    // columns of an attention score block (see AttentionBlock)

constexpr float kNoScore = -1e30f;     // running maximum before any key; finite, so that differences never are NaN

// out[i,j] = (in[i,j] + bias[j]) + sum_p a[i,p] b[p,j], the sum taken in order of p from zero.
struct GemmTile {
  int rows = 0, cols = 0;            // of out: rows <= mr, cols <= nr
  int64_t k = 0;
  const float* a = nullptr;          // a[p * a_stride + i], or by_rows: a[i * kScoreStride + p]
  int64_t a_stride = 0;
  bool a_by_rows = false;
  const void* b = nullptr;           // b[p * b_stride + j]: whole vectors are read, up to nr columns
  DType b_dtype = DType::f32;        // f32 or bf16
  int64_t b_stride = 0;
  const void* in = nullptr;          // in[i * in_stride + j], f32 or bf16, or null for zero
  DType in_dtype = DType::f32;
  int64_t in_stride = 0;
  const float* bias = nullptr;       // or null
  const void* prefetch = nullptr;    // two cache lines from here, prefetch_stride bytes on at each step of k; or null
  int64_t prefetch_stride = 0;
  void* out = nullptr;               // out[i * out_stride + j], f32 or bf16; may be `in`
  DType out_dtype = DType::f32;
  int64_t out_stride = 0;
};

// One block of attention scores, transposed: scores[key * kScoreStride + column], a column is one (query, head).
struct AttentionBlock {
  float* scores = nullptr;           // scores in, probabilities out
  float scale = 1;                   // tiles: the scores are multiplied by this first
  int keys = 0, columns = 0;         // columns are padded to whole vectors
  bool masked = false;               // false: every column sees every key
  float first_position = 0;          // of the block's first key; positions are exact in f32 (below 2^24)
  float window = 0;                  // 0: no limit
  const float* position = nullptr;   // [columns] of the queries
  float* running_max = nullptr;      // [columns] forward: in and out
  float* running_sum = nullptr;
  float* rescale = nullptr;          // [columns] forward, out: what earlier sums must be multiplied by
  const float* lse = nullptr;        // [columns] backward
  const float* delta = nullptr;      // [columns] backward: sum_d dout * out
  float* dscores = nullptr;          // backward: d probabilities in, d scores out
  double* imbalance = nullptr;       // [columns] backward, in and out: sum of the d scores so far
};

// ---- products of bf16 tiles (kernel_tiles.h) ----
// Where a block's probabilities and d scores go, rounded to bf16, as packed factors.
struct AttentionFactors {
  bf16* right = nullptr;             // [keys, columns] of probabilities, or backward of d scores; null: probabilities stay in `scores`, in f32
  int64_t right_panel = 0;           // values between panels of 32 columns
  // Backward, by strips of a panel of keys:
  bf16* probability_rows = nullptr;  // [left_keys, all columns of the tile] as left factors
  bf16* dscore_rows = nullptr;
  int64_t left_panel = 0;            // values between panels of 32 keys
  int left_keys = 0;
  int key = 0, column = 0;           // where the strip begins in the factors' rows, and in the left ones' columns
};
constexpr int kTileEdge = 16;          // rows, or columns, of a tile of sums
constexpr int kTileStep = 32;          // of k that one tile of a factor holds
constexpr int kTilePanel = 32;         // rows of a packed left panel, columns of a right one

// What becomes of a block of sums, [two or one][two] tiles of 16 x 16 floats: out[i,j] = in[i,j] + (sums[i,j] + bias[j]), or of whole rows of
// 32 where `gate` is given: silu(gate[i,j]) times that, rounded. Where `targets` is given they are logits x of a head:
//   forward, with `maxima`: maxima[i, l] and exponentials[i, l] are carried on over the columns l and l + 16, and target_logits[i] is
//     x[i, targets[i] - first_column] where that is a column of the block; nothing else is written
//   backward: out[i,j] = dlogps[i] ((first_column + j == targets[i]) - exp(x[i,j] - lse[i])), bf16
struct TileFinish {
  const float* sums = nullptr;
  int rows = 0, cols = 0;              // of the block, up to kTilePanel
  const void* in = nullptr;            // in[i * in_stride + j], f32 or bf16, or null
  DType in_dtype = DType::f32;         // of logits f32
  int64_t in_stride = 0;
  const float* bias = nullptr;         // or null
  void* out = nullptr;                 // out[i * out_stride + j], f32 or bf16; may be `in`
  DType out_dtype = DType::f32;
  int64_t out_stride = 0;
  const void* gate = nullptr;          // gate[i * kTilePanel + j], of out's type, or null
  const int32_t* targets = nullptr;    // [rows], or null
  int32_t first_column = 0;
  float *maxima = nullptr, *exponentials = nullptr;  // [rows][kTileEdge]
  float* target_logits = nullptr;      // [rows]
  const float *lse = nullptr, *dlogps = nullptr;     // [rows]
  bool stream = false;                 // past the caches: 32 columns, 64-byte aligned rows, `in` elsewhere or null
};

// sums = a b over `steps` steps of k, in order. While the tiles are multiplied, `finish` is carried out.
// Sums are whole tiles one after the other, [two or one][two][16][16].
struct TileProduct {
  const void* a = nullptr;             // of a packed row panel
  const void* b = nullptr;             // of a packed column panel
  int64_t steps = 0;
  int row_tiles = 2;                   // 1: a has at most 16 rows
  float* sums = nullptr;
  const TileFinish* finish = nullptr;  // or null; of another block's sums
  const TileFinish* coming = nullptr;  // or null; of this block's, whose `in` is fetched from far away
  int64_t ahead = 0;                   // bytes that b is prefetched ahead of use, or 0
  const char* next = nullptr;          // or: what is needed next: at each step next_lines pieces of next_width cache lines, next_stride bytes apart
  int64_t next_lines = 0, next_width = 1, next_stride = 0;
};

// A product of few rows or few columns, which are one tile: sums (+)= a b. Sums are rows of f32, sums_stride apart.
//   tall: up to 64 rows of a, read as they are, by 16 columns of a packed panel
//   wide: 16 packed rows by up to 64 columns, of one or two packed panels
struct TileStrip {
  const void* a = nullptr;
  int64_t a_stride = 0;                // tall: bytes between rows
  const void* b = nullptr;
  int64_t b_panel = 0;                 // wide: bytes to the second panel
  int64_t steps = 0;
  int tiles = 4;                       // of sums
  bool add = false;
  float* sums = nullptr;
  int64_t sums_stride = 0;
};

// sums (+)= a b of small packed matrices that are in the first cache.
struct TileGrid {
  const void* a = nullptr;             // row panels
  int64_t a_panel = 0;                 // bytes from one to the next
  int a_rows = 0;                      // of a: its last panel may be of one tile
  int rows = 0;                        // of sums
  const void* b = nullptr;             // column panels
  int64_t b_panel = 0;
  int cols = 0;                        // of sums
  int64_t steps = 0;
  bool add = false;
  float* sums = nullptr;               // rows sums_stride apart, written by whole panels; to rows beyond a's, zeros are added
  int64_t sums_stride = 0;
};

struct TileKernels {
  int64_t stream_bytes;                // results this large are written past the caches

  void (*begin)();                     // before a thread's first product, and
  void (*end)();                       // after its last
  // A panel of up to 32 rows: a [rows, k], or [k, rows] when transposed; ceil(k / 32) steps of 1 or 2 KB.
  void (*pack_rows)(void* to, const void* a, DType dtype, int64_t stride, bool transposed, int rows, int64_t k);
  // A panel of up to 32 columns: b [k, cols], or [cols, k] when transposed; ceil(k / 32) steps of 2 KB.
  void (*pack_columns)(void* to, const void* b, DType dtype, int64_t stride, bool transposed, int cols, int64_t k);
  void (*multiply)(const TileProduct& product);
  void (*multiply_grid)(const TileGrid& grid);
  void (*multiply_tall)(const TileStrip& strip);
  void (*multiply_wide)(const TileStrip& strip);
  void (*finish)(const TileFinish& finish);
  // maximum = max x, sum = sum_i sums[i] exp(x[i] - maximum)
  void (*combine_exponentials)(const float* x, const float* sums, int64_t n, float* maximum, float* sum);
  void (*attention_softmax)(const AttentionBlock& block, const AttentionFactors& to);  // columns: whole vectors
  // Of a strip: 32 rows of scores of which the first `keys` are seen, whole panels of columns; no imbalance.
  void (*attention_softmax_backward)(const AttentionBlock& strip, const AttentionFactors& to);
  double (*peak_loop)(int64_t steps, double* flops);  // products of tiles that stay in registers
};

// n neighbouring elements; the remainder is null where the weight is f32. rounding: of the first of them, for moments not in f32.
struct AdamWRange {
  DType dtype, grad_dtype;
  Moments moments;
  void* weight;
  int16_t* remainder;
  const void* grad;
  void *m, *v;
  float *m_scales, *v_scales;        // coded moments: of whole blocks from the first element on
  int64_t n;
  uint32_t rounding;                 // first element's index * kGolden + rounding_key
};

struct Kernels {
  const char* name;
  int width;                         // floats in a vector
  int mr, nr;                        // register tile of gemm_tile; nr is a multiple of width
  int kc;                            // every sum over k is cut in blocks of kc from its start

  // ---- products (kernel_gemm.h) ----
  // a panel of rows rows: to[p * rows + i] = a[i, p] (or a[p, i] when transposed), p in [0, k).
  void (*pack_a)(float* to, const void* a, DType dtype, int64_t stride, bool transposed, int rows, int64_t k);
  // a panel of nr columns, zero beyond cols: to[p * nr + j] = b[j, p] (or b[p, j] when !transposed). to is f32, or bf16 when b is too.
  void (*pack_b)(void* to, DType to_dtype, const void* b, DType dtype, int64_t stride, bool transposed, int cols, int64_t k);
  void (*gemm_tile)(const GemmTile& tile);

  // ---- plain rows (kernel_rows.h) ----
  void (*convert)(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n, float scale);  // to[i] = from[i] * scale
  void (*add)(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n);      // to[i] += from[i]
  void (*scale)(float* x, float factor, int64_t n);
  void (*scale_columns)(float* x, int64_t stride, int64_t rows, const float* factors, int64_t n);  // x[i * stride + j] *= factors[j]
  float (*dot)(const float* a, const float* b, int64_t n);
  double (*sum_of_squares)(const void* x, DType dtype, int64_t n);

  // ---- rows of the model (kernel_model.h) ----
  void (*rms_norm)(float* y, const float* x, const float* weight, float eps, int64_t n, float* rstd);
  void (*rms_norm_backward)(float* dx, float* dweight, const float* dy, const float* x, const float* weight, float rstd, int64_t n,
                            bool accumulate);
  void (*rms_norm_weight)(float* dweight, const float* dy, const float* x, float rstd, int64_t n);  // the same dweight alone
  void (*rope)(void* x, DType dtype, int64_t heads, int head_dim, const float* cos_sin, float direction);
  void (*swiglu)(void* out, DType out_dtype, const void* gate_up, DType dtype, int64_t n);
  void (*swiglu_backward)(void* dgate_up, DType to_dtype, const void* dout, DType dout_dtype, const void* gate_up, DType dtype, void* out,
                          DType out_dtype, int64_t n);

  // ---- softmax (kernel_softmax.h) ----
  float (*row_max)(const float* x, int64_t n);
  float (*row_sum_exp)(const float* x, int64_t n, float maximum);                            // sum_i exp(x[i] - maximum)
  void (*softmax_gradient)(float* x, int64_t n, float lse, float factor);                    // x[i] = -factor * exp(x[i] - lse)
  void (*attention_softmax)(const AttentionBlock& block);
  void (*attention_softmax_backward)(const AttentionBlock& block);

  // ---- optimizer (kernel_optimizer.h) ----
  void (*adamw)(const AdamWStep& step, const AdamWRange& range);

  // ---- measuring ----
  double (*fma_loop)(int64_t steps, double* flops);  // register-only; returns a value that depends on all of it
  float (*read_loop)(const float* x, int64_t n);     // reads every vector once
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();     // nullptr where this build has none (another processor family)
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();    // with the instructions that round to bf16
const TileKernels* plain_tiles();        // the tiles of AMX in plain C++
const TileKernels* avx512_bf16_tiles();  // nullptr where this build has none
const TileKernels* amx_tiles();

}  // namespace rlhi::ops
