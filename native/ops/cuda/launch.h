// The border between the two halves of the CUDA backend: host code (memory, streams, cuBLASLt, the ops table) calls these
// functions; kernels/*.cu define them, and emulate/*.cc define them once more for a machine without a GPU.
//
// Each enqueues work on the stream and returns at once; a launch that fails throws (base/error.h). Shapes' letters and
// rules are those of ops/ops.h, and the arguments have passed the host side's checks. EVERY pointer here, those inside
// AttentionArgs and the index, id, position and target lists included, is device memory. 0 rows is a no-op everywhere.
// Nothing here allocates: where a kernel needs scratch, a function beside it says how many bytes (256-byte aligned), and
// contents need not be zeroed. No result depends on the scratch's size or on the device's number of multiprocessors.
#pragma once
#include "ops/ops.h"

struct CUstream_st;  // cudaStream_t, without CUDA's headers

namespace rlhi::ops::cuda {

class Recorder;

struct Launch {
  CUstream_st* stream = nullptr;
  int multiprocessors = 132;
  int device = 0;
  Recorder* recorder = nullptr;      // asked before each launch, where there is one (recorder.h)
};

// ---- movement and sums ---------------------------------------------------------------------------------------------
// to[to_index ? to_index[i] : i] = from[from_index ? from_index[i] : i] for `rows` rows, f32 or bf16 in any combination:
// copy, gather_rows, scatter_rows and embedding.
void move_rows(const Launch&, Tensor to, const int32_t* to_index, Tensor from, const int32_t* from_index, int64_t rows);

// scatter_add_rows by runs: for every row of `to` that is hit, to[run.row] += from[order[run.first + j]] for j < run.count, in
// that order. The host sorts the indices stably: order is 0..N-1 sorted by target row, one run a distinct row.
struct ScatterRun {
  int32_t row, first, count;
};
void scatter_add_rows(const Launch&, Tensor to, Tensor from, const ScatterRun* runs, int64_t n_runs, const int32_t* order);

void add(const Launch&, Tensor to, Tensor from);
size_t column_sum_scratch(int64_t rows, int64_t cols);
void column_sum(const Launch&, Tensor to, Tensor from, void* scratch);

// ---- rows of the transformer ---------------------------------------------------------------------------------------
void rms_norm(const Launch&, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x);
size_t rms_norm_backward_scratch(int64_t rows, int64_t cols, int groups);  // needed only where dweight is given
void rms_norm_backward(const Launch&, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                       bool accumulate, void* scratch);
void rope(const Launch&, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction);
void swiglu(const Launch&, Tensor out, Tensor gate_up);
void swiglu_backward(const Launch&, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out);

// ---- products of few rows ------------------------------------------------------------------------------------------
// gemm of form nt (swiglu_c included) of at most kFewRows bf16 rows: an element is one sum over k, 16 at a time in ascending order.
constexpr int kFewRows = 128;
bool takes_few_rows(const GemmArgs&);            // sizes, types and alignment that few_rows_product can do
void few_rows_product(const Launch&, const GemmArgs&);
bool fills_by_few_rows(const Launch&, const GemmArgs&);  // whether it has work for all multiprocessors: nothing was seen to be faster then

// ---- head ----------------------------------------------------------------------------------------------------------
// The host makes logits of columns [first, first + logits.cols) of the vocabulary by a product (f32), in one piece (kept
// logits) or in several, in order; every piece but the last is a multiple of kVocabBlock wide. Rows' statistics are taken
// over blocks of kVocabBlock from the start of the vocabulary and merged in order, so that the pieces do not matter.
constexpr int64_t kVocabBlock = 2048;
struct HeadStatistics {  // of one row so far: sum of 2^(logit log2(e) - maximum), maximum an integer; the target's logit
  double maximum, sum, target;
};
// first == 0 begins, later pieces go on from `statistics` [N].
void logprob_statistics(const Launch&, Tensor logits, int64_t first, const int32_t* targets, HeadStatistics* statistics);
// lse = maximum ln(2) + ln(sum), logps = target - lse
void logprob_finish(const Launch&, const HeadStatistics* statistics, int64_t n, float* logps, float* lse);
// d[i,j] = dlogps[i] * ((first + j == targets[i]) - exp(logits[i,j] - lse[i])), d [N, logits.cols] f32 or bf16.
// d may be the logits themselves (f32), or bf16 over the same memory: same data pointer, d.row_stride = 2 * logits.row_stride.
void logprob_gradient(const Launch&, Tensor d, Tensor logits, int64_t first, const int32_t* targets, const float* lse,
                      const float* dlogps);

// args.pairs is device memory here.
void preference_loss(const Launch&, const PreferenceLossArgs&);

// ---- choosing tokens -----------------------------------------------------------------------------------------------
// What a choice found: the token, its logit, the row's highest (NaN where there is a NaN among the logits, infinite where that is), and the
// sum of exp(logit - highest) in units of 2^-choice_bits(vocab).
struct RowChoice {
  int32_t id;
  float logit, highest;
  uint64_t total;
};
int choice_bits(int64_t vocab);
void choose_tokens(const Launch&, Tensor logits, const TokenChoice* choices, int64_t n, RowChoice* found);

// ---- optimizer -----------------------------------------------------------------------------------------------------
void adamw(const Launch&, const AdamWArgs&);
size_t sum_of_squares_scratch(int64_t n);
void sum_of_squares(const Launch&, const void* x, DType dtype, int64_t n, void* scratch, double* result);
void clip_factor(const Launch&, const double* squares, int64_t n, double max_norm, float* factor);

// ---- attention -----------------------------------------------------------------------------------------------------
// A row's bits are the same whichever of the kernels below computed it and whatever is beside it: a block of kKeyBlock
// keys, cut from the start of its span, gives (maximum, sum, weighted values) by itself, and blocks are folded in order.
//
// The host cuts segments into tiles of plan.*_rows rows from their start (the last one shorter), lists them in any order
// (best: most work first), and uploads the lists with segments and spans.
struct AttentionPlan {
  bool tensor_cores = false;   // else the plain kernels: f32 tensors, another head_dim, or rows that are not 16-byte aligned
  int forward_rows = 0;        // query rows of a tile of attention()
  int dq_rows = 0;             // query rows of a tile of attention_backward's first pass
  int key_rows = 0;            // key rows of a tile of its second pass
  bool decode = false;         // segments of length 1 may go to attention_decode() instead of attention()
  bool specialized = false;    // the backward's warps: one brings tiles, the others compute (else all do both)
};
AttentionPlan plan_attention(const AttentionArgs&);
// `specialized`: as plan.specialized, where this device has such kernels. Both forms give the same bits.
AttentionPlan plan_attention_backward(const AttentionBackwardArgs&, bool specialized);

struct QueryTile {             // rows [first, min(first + rows, length)) of a segment
  int32_t segment, first;
};
// args.segments and args.spans are device pointers here.
void attention(const Launch&, const AttentionPlan&, const AttentionArgs&, const QueryTile* tiles, int64_t n_tiles);

// Decoding. A split is up to kDecodeBlocks consecutive key blocks: n_keys keys from `row` of k and v, at positions from `position`. They
// begin a multiple of kDecodeBlocks * kKeyBlock from the start of their span and are cut by its end. The queries
// [first_query, first_query + n_queries) see them: segments of length 1 whose spans hold the same keys, as samples of one prompt do, at
// most decode_queries() of them. A query's part of the split fills its places first_block, first_block + 1, ... of the scratch. Splits with
// nothing in sight (window) may be left out. A segment's blocks are contiguous and in order of its spans.
constexpr int kDecodeBlocks = 2;
struct DecodeQuery {
  int32_t segment, first_block;
};
struct DecodeSplit {
  int32_t row, position, n_keys;
  int32_t first_query, n_queries;
};
int decode_queries(const AttentionArgs&);
struct DecodeSegment {
  int32_t segment, first_block, n_blocks;
};
size_t attention_decode_scratch(const AttentionArgs&, int64_t n_blocks);  // n_blocks: of all splits together
struct DecodeWork {             // lists on the device
  const DecodeSplit* splits = nullptr;
  int64_t n_splits = 0;
  const DecodeQuery* queries = nullptr;
  const DecodeSegment* segments = nullptr;
  int64_t n_segments = 0, n_blocks = 0;
};
void attention_decode(const Launch&, const AttentionArgs&, const DecodeWork&, void* scratch);

// Backward. A key tile is rows [first, min(first + key_rows, length)) of a segment's own rows (its last span), with the list of
// who sees them: visitors [first_visitor, first_visitor + n_visitors), each a segment and that span of it (index into
// args.spans) which reaches into the tile; the segment itself is one of them. In order: by segment, then by span.
struct KeyTile {
  int32_t segment, first, first_visitor, n_visitors;
};
struct Visitor {
  int32_t segment, span;
};
struct BackwardTiles {
  const QueryTile* query_tiles = nullptr;  // of plan.dq_rows rows
  int64_t n_query_tiles = 0;
  const KeyTile* key_tiles = nullptr;      // of plan.key_rows rows
  int64_t n_key_tiles = 0;
  const Visitor* visitors = nullptr;
};
size_t attention_backward_scratch(const AttentionBackwardArgs&);
void attention_backward(const Launch&, const AttentionPlan&, const AttentionBackwardArgs&, const BackwardTiles&, void* scratch);

}  // namespace rlhi::ops::cuda
