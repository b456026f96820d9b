// The one table of operations. The transformer is written once, against this file; a backend is a filled table.
//
// Letters of shapes: T tokens (rows of a packed micro-batch), D hidden_size, H n_heads, G n_kv_heads, K head_dim,
// F intermediate_size, V vocab_size, N answer tokens (rows the head is applied to).
//
// Rules every backend keeps:
//  - Batch invariance: an output row's bits do not depend on how many other rows or segments are in the call, nor on the
//    thread count. (So: no split of a reduction that depends on the number of rows; key blocks are cut relative to the
//    start of their span.)
//  - Determinism: same input, same bits.
//  - Accumulation in f32 or wider. Tensors may be f32 or bf16 unless an argument says otherwise; "+=" outputs are f32.
//  - Any size >= 1 is correct; 0 rows is a no-op.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/tensor.h"
#include "loss/preference.h"

namespace rlhi::ops {

constexpr uint32_t kAbiVersion = 8;

struct Backend;  // opaque: threads and scratch of the CPU, or stream and handles of a GPU

// ---- matrix product ------------------------------------------------------------------------------------------------
enum class GemmForm {
  nt,  // c[m,n] = a[m,k] * b[n,k]^T     y = x W^T
  nn,  // c[m,n] = a[m,k] * b[k,n]       dx = dy W
  tn,  // c[m,n] = a[k,m]^T * b[k,n]     dW = dy^T x
};
// A weight packed for repeated nt products (b above): made once a step or once a load, read by many calls.
struct PackedWeight {
  void* data = nullptr;  // backend's own layout, backend memory
  DType dtype = DType::f32;
  int64_t n = 0, k = 0;
};
struct GemmArgs {
  GemmForm form = GemmForm::nt;
  Tensor a, b, c;                        // c is f32 or bf16
  const PackedWeight* packed_b = nullptr;  // form nt only: used in place of b (b may then be empty)
  Tensor bias;                           // [1,n] or empty: added to every row
  bool accumulate = false;               // c += instead of c =; the sum is rounded to c's type once
  // Form nt, without bias or accumulation: b is [2F, k], the rows of gate, then those of up; c is [m, F], what swiglu makes of the product in
  // c's type, to the bit. The product itself need not lie in memory.
  bool swiglu_c = false;
};

// ---- attention over packed prefix trees and caches -------------------------------------------------------------------
// A run of keys: rows [row, row+length) of the k and v tensors, at positions position, position+1, ...
// Keys are summed in blocks of kKeyBlock from the start of their span, spans in order: a span cut in two at a multiple of
// kKeyBlock gives the same bits.
constexpr int kKeyBlock = 64;
struct KeySpan {
  int32_t row, length, position;
};
// A run of queries: rows [row, row+length) of q, at positions position, position+1, ...; it sees the key spans
// [first_span, first_span+n_spans), each key at position p' of them with p - window < p' <= p (window 0: no limit).
// A pair is three segments: prompt sees {prompt}; chosen sees {prompt, chosen}; rejected sees {prompt, rejected}.
// A decoding step is a segment of length 1 whose spans lie in the cache.
// In training (backward), a segment's last span is its own rows, and the spans before it are its ancestors'.
struct QuerySegment {
  int32_t row, length, position;
  int32_t first_span, n_spans;
};
struct AttentionArgs {
  int n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int window = 0;
  float scale = 0;             // 1 / sqrt(head_dim)
  Tensor q;                    // [T, H*K]
  Tensor k, v;                 // [rows of keys, G*K]
  Tensor out;                  // [T, H*K]
  Tensor lse;                  // [T, H] f32: log-sum-exp of the scaled scores; may be empty when no backward follows
  const QuerySegment* segments = nullptr;
  int64_t n_segments = 0;
  const KeySpan* spans = nullptr;
  int64_t n_spans = 0;
};
struct AttentionBackwardArgs {
  AttentionArgs forward;       // q, k, v, out, lse as they were
  Tensor dout;                 // [T, H*K]
  Tensor dq, dk, dv;           // written (not accumulated); same shapes as q, k, v
};

// ---- head ------------------------------------------------------------------------------------------------------------
// logps[i] = log softmax(h[i] W^T)[targets[i]]. The logits of a chunk of rows are either kept by the caller's buffer
// (keep_logits [N,V] f32, so that backward does not compute them again, where Table::keeps_logits says so) or only ever exist in
// blocks of the vocabulary.
struct LinearLogprobArgs {
  Tensor h;                    // [N, D]
  Tensor w;                    // [V, D]
  const PackedWeight* packed_w = nullptr;
  const int32_t* targets = nullptr;  // [N]
  float* logps = nullptr;      // [N] out, backend memory
  float* lse = nullptr;        // [N] out, backend memory
  Tensor keep_logits;          // [N, V] f32 or empty
};
struct LinearLogprobBackwardArgs {
  LinearLogprobArgs forward;   // with lse filled; keep_logits, if given, is overwritten
  const float* dlogps = nullptr;  // [N], backend memory
  Tensor dh;                   // [N, D] written
  Tensor dw;                   // [V, D]; may be empty (frozen head)
  bool accumulate = true;      // dw += ; else dw is written
};

// ---- loss ------------------------------------------------------------------------------------------------------------
// A pair among the rows of linear_logprob: those of the chosen answer from `first` on, then those of the rejected one.
struct PairRows {
  int64_t first = 0;
  int32_t chosen = 0, rejected = 0;                // at least one each
  double ref_chosen = 0, ref_rejected = 0;         // the reference's sums; of a float32's value: the policy's are rounded to one
};
struct PairSums {
  double chosen = 0, rejected = 0;                 // of the policy's log-probabilities, added token by token in order
};
struct PreferenceLossArgs {
  LossOptions loss;
  const PairRows* pairs = nullptr;                 // [n], the host's
  int64_t n = 0;
  const float* logps = nullptr;                    // [N], backend memory
  PairSums* sums = nullptr;                        // [n] out, backend memory
  float* dlogps = nullptr;  // [N] out, backend memory, or null: weight * d loss / d sum at all of an answer's rows; NaN where the loss is not finite
  double weight = 1;
};

// ---- choosing tokens -------------------------------------------------------------------------------------------------
// From one row of logits to one token: temperature, then top-k, top-p, min-p (the order in which transformers applies its warpers), then a
// draw. As in transformers: ties with the k-th logit stay; top-p removes the least likely tokens whose summed probability (of what
// top-k left) is at most 1 - p, the higher id first among equals; min-p removes what is less likely than min_p times the likeliest; the
// likeliest always stays. The draw walks what is left in order of ids, so that every backend draws the same token.
struct TokenChoice {
  int32_t row = 0;             // of the logits
  int32_t top_k = 0;           // 0: off
  double temperature = 1;      // 0: the highest logit, the lowest id among equals
  double top_p = 1;            // (0, 1]
  double min_p = 0;            // [0, 1)
  double uniform = 0;          // [0, 1): where the draw falls
};
struct ChosenToken {
  int32_t id = 0;
  float logp = 0;              // under softmax(logits): temperature 1, nothing cut off
};

// ---- optimizer -------------------------------------------------------------------------------------------------------
// How AdamW's two moments are stored. To what holds less than f32 they are rounded up or down at random, in proportion to the distance:
// to nearest, a moment that decays by less than the spacing would never move.
//   coded: 8 bits and for every kMomentBlock elements from the first of a call an f32 scale, their largest size (dynamic quantization by
//   blocks, Dettmers et al. 2022, arXiv 2110.02861; ops/moment_codes.h)
enum class Moments : uint8_t { f32, bf16, coded };
constexpr int64_t kMomentBlock = 256;
inline int64_t moment_size(Moments m) { return m == Moments::f32 ? 4 : m == Moments::bf16 ? 2 : 1; }  // bytes an element, without the scales

// Moments that lie in the host's memory pass through a GPU's in pieces of this many elements, a multiple of kMomentBlock: at most
// kMomentSlots of them are there at once, one on its way in, one that is computed, one on its way out.
constexpr int64_t kMomentPiece = int64_t{1} << 22;
constexpr int64_t kMomentSlots = 3;
inline int64_t moment_piece_bytes(int64_t n, Moments m, int64_t piece) {  // of one moment of a piece, in whole lines of 256 bytes
  const int64_t bytes = (n < piece ? n : piece) * moment_size(m);
  return (bytes + 255) / 256 * 256;
}
inline int64_t moment_staging_bytes(int64_t n, Moments m, int64_t piece = kMomentPiece) {  // of both moments, of n elements in all
  const int64_t pieces = (n + piece - 1) / piece;
  return 2 * (pieces < kMomentSlots ? pieces : kMomentSlots) * moment_piece_bytes(n, m, piece);
}

struct AdamWArgs {
  int64_t n = 0;
  DType dtype = DType::f32;    // of the weight: f32, or bf16 with a remainder (base/dtype.h, split_master)
  void* weight = nullptr;
  int16_t* remainder = nullptr;  // bf16 only
  DType grad_dtype = DType::f32;  // or bf16
  const void* grad = nullptr;
  Moments moments = Moments::f32;
  void* m = nullptr;           // first moment
  void* v = nullptr;           // second
  float* m_scales = nullptr;   // coded only: [ceil(n / kMomentBlock)]
  float* v_scales = nullptr;
  // m and v lie in memory of alloc_host, not of alloc; their scales lie in alloc's. The bits are the same.
  bool moments_on_host = false;
  int64_t moment_piece = kMomentPiece;
  int64_t first_element = 0;   // index of the first of the n among all parameters: of a multiple of 16, and the same in every step
  uint32_t rounding_seed = 0;  // of the step
  const float* grad_scale = nullptr;  // backend memory: applied to grad as it is read (null: 1). Where it is NaN nothing changes
  // double, as PyTorch's hyperparameters are: 1 - beta is taken before it is rounded
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double bias_correction1 = 1, bias_correction2 = 1;  // 1 - beta^step
};

constexpr uint64_t kMarks = 16;

// ---- the table -------------------------------------------------------------------------------------------------------
struct Table {
  uint32_t abi_version;
  const char* backend_name;    // "cpu/portable", "cpu/avx2", "cpu/avx512", "cuda"

  // Memory of the backend. alloc returns 64-byte aligned, zeroed memory or nullptr. Tensors, packed weights, the arrays of
  // AdamWArgs (moments where it says so in alloc_host's) and what is said to lie in backend memory do; index lists, targets, segments, spans and pairs are the host's. The host reads and writes
  // backend memory by upload and download alone, which are complete for the host when they return.
  void* (*alloc)(Backend*, size_t bytes);
  void (*release)(Backend*, void*, size_t bytes);
  void (*upload)(Backend*, void* to, const void* from_host, size_t bytes);
  void (*download)(Backend*, void* to_host, const void* from, size_t bytes);
  void (*zero)(Backend*, void*, size_t bytes);
  int64_t (*available_bytes)(Backend*);  // that alloc could still give; 0: not known

  // Operations may be under way still when they return. A mark is a place in their order: wait returns when everything before it has been
  // done, and throws what went wrong; passed asks without waiting. A mark is good until kMarks more were set.
  uint64_t (*mark)(Backend*);
  bool (*passed)(Backend*, uint64_t mark);
  void (*wait)(Backend*, uint64_t mark);

  // Memory of the host to which downloads need not be waited for, and where AdamW's moments may lie: zeroed, or nullptr. fetch is a download
  // into it, complete for the host once a mark set after it has passed. upload and download take it as they take the backend's own.
  void* (*alloc_host)(Backend*, size_t bytes);
  void (*release_host)(Backend*, void*, size_t bytes);
  void (*fetch)(Backend*, void* to_host, const void* from, size_t bytes);

  // Runs `work`, which calls operations that give the host nothing (none of the above) and comes again, under this key, with the same tensors
  // and other index lists: a backend may keep what it launched and launch it as one. So `work` may be called twice, or for show: it changes
  // nothing but through operations.
  void (*repeated)(Backend*, uint64_t key, void (*work)(void* context), void* context);

  // Movement: to[i] = from[i] with conversion; rows by index (negative or out-of-range indices are the caller's bug).
  void (*copy)(Backend*, Tensor to, Tensor from);
  void (*gather_rows)(Backend*, Tensor to, Tensor from, const int32_t* index);        // to[i] = from[index[i]]
  void (*scatter_rows)(Backend*, Tensor to, Tensor from, const int32_t* index);       // to[index[i]] = from[i]
  void (*scatter_add_rows)(Backend*, Tensor to, Tensor from, const int32_t* index);   // to[index[i]] += from[i], in order of i; a row's sum is rounded to `to`'s type once
  void (*add)(Backend*, Tensor to, Tensor from);                                      // to += from
  void (*column_sum)(Backend*, Tensor to, Tensor from);                               // to[0,j] += sum_i from[i,j], to f32

  size_t (*packed_bytes)(Backend*, DType dtype, int64_t n, int64_t k);  // 0: this backend reads weights as they are; nothing is packed
  void (*pack_weight)(Backend*, PackedWeight* to, Tensor w);  // to->data holds packed_bytes; fills the rest of *to
  void (*gemm)(Backend*, const GemmArgs&);

  void (*embedding)(Backend*, Tensor out, Tensor table, const int32_t* ids);              // out [T,D] f32 or bf16, table [V,D]
  // y = x * rsqrt(mean(x^2) + eps) * weight, per group of cols/groups columns (groups = heads for q/k norm; weight [1, cols/groups]).
  // rstd [T, groups] f32 may be empty. copy_x (may be empty) receives x, for the backward. y may be x itself.
  void (*rms_norm)(Backend*, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x);
  // dx += (accumulate) or = ; dweight [1, cols/groups] f32 += (may be empty). dx may be dy itself when not accumulating.
  void (*rms_norm_backward)(Backend*, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                            bool accumulate);
  // In place on x [T, n*K] (n heads side by side): rotates halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), the
  // convention of Hugging Face checkpoints. cos_sin [max_position, K] f32: K/2 cosines, then K/2 sines. direction -1 is the backward.
  void (*rope)(Backend*, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction);
  void (*attention)(Backend*, const AttentionArgs&);
  void (*attention_backward)(Backend*, const AttentionBackwardArgs&);
  // gate_up [T, 2F]: gate, then up. out [T,F] = silu(gate) * up.
  void (*swiglu)(Backend*, Tensor out, Tensor gate_up);
  // dgate_up may be gate_up itself. out (may be empty, or dout itself) receives what swiglu makes of gate_up, to the bit where the types
  // are the same.
  void (*swiglu_backward)(Backend*, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out);
  bool (*keeps_logits)(Backend*, DType head);  // whether keep_logits is used; if not, logits are sooner computed again than read
  void (*linear_logprob)(Backend*, const LinearLogprobArgs&);
  void (*linear_logprob_backward)(Backend*, const LinearLogprobBackwardArgs&);

  void (*preference_loss)(Backend*, const PreferenceLossArgs&);

  // logits [N, V] f32, any number of choices a row; choices and chosen [n] are the host's. Throws internal where a row has a NaN or no finite
  // maximum.
  void (*choose_tokens)(Backend*, Tensor logits, const TokenChoice* choices, int64_t n, ChosenToken* chosen);

  void (*adamw)(Backend*, const AdamWArgs&);
  void (*sum_of_squares)(Backend*, Tensor x, double* sum);  // x contiguous; fixed order, any thread count; sum in backend memory, written
  // torch.nn.utils.clip_grad_norm_: factor = min(1, max_norm / (sqrt(the sum of `squares` [n]) + 1e-6)), 1 for a max_norm of 0; NaN where that
  // sum is not finite, and where the factor was NaN before. All but max_norm in backend memory.
  void (*clip_factor)(Backend*, const double* squares, int64_t n, double max_norm, float* factor);
};

// Table::repeated of whoever makes nothing of the repetition.
inline void do_each_time(Backend*, uint64_t, void (*work)(void*), void* context) { work(context); }

inline bool is_cpu(const Table& table) { return std::string_view(table.backend_name).starts_with("cpu/"); }

}  // namespace rlhi::ops
