// Attention of segments of length one: every warp takes one block of kKeyBlock keys for the query heads that share its
// key/value head, and leaves the block's part in memory; a second kernel folds a row's parts in order. The parts and the
// folds are those of attention_forward.cu, so the bits are too.
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 32 * kDecodeBlocks, kHeads = 16;  // query heads of a warp's tile, the last ones empty

template <int kD>
struct WarpMemory {
  static constexpr int q = 0, k = q + tile_bytes(kHeads, kD), v = k + tile_bytes(kKeyBlock, kD), bytes = v + tile_bytes(kKeyBlock, kD);
};

struct DecodeParts {
  float* values;       // [blocks, H, K]: sums of weighted values
  RowState* states;    // [blocks, H]
};
DecodeParts parts_in(void* scratch, const AttentionArgs& a, int64_t n_blocks) {
  auto* values = static_cast<float*>(scratch);
  return {values, reinterpret_cast<RowState*>(values + n_blocks * a.n_heads * a.head_dim)};
}

// One block: a split and up to 16 heads of a group.
template <int kD>
RLHI_KERNEL(kThreads, 1)
void decode_kernel(AttentionInputs in, const DecodeSplit* splits, int n_kv_heads, int head_tiles, DecodeParts parts) {
  using P = Products<false>;
  using Memory = WarpMemory<kD>;
  const DecodeSplit split = splits[block_index() / (n_kv_heads * head_tiles)];
  const int kv_head = block_index() / head_tiles % n_kv_heads, first_head = block_index() % head_tiles * kHeads;
  const int warp = thread_index() / 32, lane = thread_index() % 32, begin = split.first_key + warp * kKeyBlock;
  const int keys = least(kKeyBlock, split.first_key + split.n_keys - begin);
  if (keys <= 0) return;  // a warp alike; warps do not wait for one another
  unsigned char* const memory = shared_memory() + warp * Memory::bytes;
  const QuerySegment segment = in.segments[split.segment];
  const KeySpan span = in.spans[split.span];
  const KeyBlock block{span.row + begin, span.position + begin, keys};
  const int heads = least(kHeads, in.group - first_head), head = kv_head * in.group + first_head;
  // A head's query is a row of the tile.
  load_tile<kHeads, kD, 32>(memory + Memory::q, bf16_row(in.q, in.q_stride, segment.row, head * kD), kD, heads);
  load_tile<kKeyBlock, kD, 32>(memory + Memory::k, bf16_row(in.k, in.k_stride, block.row, kv_head * kD), in.k_stride, keys);
  copy_commit();
  load_tile<kKeyBlock, kD, 32>(memory + Memory::v, bf16_row(in.v, in.v_stride, block.row, kv_head * kD), in.v_stride, keys);
  copy_commit();

  copy_wait<1>();
  sync_warp();
  float s[8][4];
  P::warp_scores<kD, kHeads, kKeyBlock>(s, memory + Memory::q, 0, memory + Memory::k);
  const QueryRange range{segment.position, segment.position};
  if (!sees_all(range, block, in.window)) {
    const ColumnRange c = columns_seen(block, segment.position, in.window);
    mask_scores(s, c.low, c.high, c.low, c.high);
  }
  RowState part[2];
  block_softmax(s, in.scale * kLog2e, part);
  uint32_t weights[4][4];
  RLHI_UNROLL
  for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
  copy_wait<0>();
  sync_warp();
  const int64_t place = split.first_block + warp;
  for_panels<kD>([&](auto panel) {
    constexpr int kFragments = kPanelFragments<kD, decltype(panel)::value>;
    float sum[kFragments][4];
    P::weighted<kKeyBlock>(sum, weights, memory + Memory::v, decltype(panel)::value, false);
    RLHI_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = lane / 4 + 8 * i;
      if (row >= heads) continue;
      float* to = parts.values + (place * in.n_heads + head + row) * kD + decltype(panel)::value * 64 + lane % 4 * 2;
      RLHI_UNROLL
      for (int n = 0; n < kFragments; ++n) store_words(to + n * 8, Words2{{as_bits(sum[n][2 * i]), as_bits(sum[n][2 * i + 1])}});
    }
  });
  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = lane / 4 + 8 * i;
    if (row < heads && lane % 4 == 0) parts.states[place * in.n_heads + head + row] = part[i];
  }
}

// One warp: a row of one head, four columns a lane.
constexpr int kFoldThreads = 128;
template <int kD>
RLHI_KERNEL(kFoldThreads, 2)
void fold_kernel(AttentionInputs in, const DecodeSegment* segments, int64_t n, DecodeParts parts, void* out, int64_t out_stride, float* lse,
                 int64_t lse_stride) {
  const int64_t item = static_cast<int64_t>(block_index()) * (kFoldThreads / 32) + thread_index() / 32;
  if (item >= n * in.n_heads) return;
  const DecodeSegment d = segments[item / in.n_heads];
  const int head = static_cast<int>(item % in.n_heads), column = thread_index() % 32 * 4;
  const bool active = column < kD;
  float sum[4] = {};
  RowState state{negative_infinity(), 0};
  constexpr int kInFlight = 16;
  for (int b = 0; b < d.n_blocks; b += kInFlight) {
    RowState part[kInFlight];
    Words4 values[kInFlight];
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      if (b + u >= d.n_blocks) continue;
      const int64_t at = static_cast<int64_t>(d.first_block + b + u) * in.n_heads + head;
      part[u] = parts.states[at];
      if (active) values[u] = load_words<Words4>(parts.values + at * kD + column);
    }
    RLHI_UNROLL
    for (int u = 0; u < kInFlight; ++u) {
      if (b + u >= d.n_blocks) continue;
      const FoldFactors f = fold(state, part[u]);
      if (!active) continue;
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) sum[j] = fused_multiply_add(as_float(values[u].w[j]), f.block, sum[j] * f.before);
    }
  }
  const int64_t row = in.segments[d.segment].row;
  const float factor = state.sum > 0 ? 1.0f / state.sum : 1.0f;
  if (active) {
    store_words(static_cast<uint16_t*>(out) + row * out_stride + head * kD + column,
                Words2{{pack_bf16(sum[0] * factor, sum[1] * factor), pack_bf16(sum[2] * factor, sum[3] * factor)}});
  }
  if (lse && column == 0) lse[row * lse_stride + head] = log_sum(state);
}

template <int kD>
void launch_decode(const Launch& at, const AttentionArgs& a, const DecodeSplit* splits, int64_t n_splits, const DecodeSegment* segments,
                   int64_t n_segments, const DecodeParts& parts) {
  const AttentionInputs in = inputs_of(a);
  const int head_tiles = static_cast<int>(ceil_div(in.group, kHeads));
  launch(at, n_splits * a.n_kv_heads * head_tiles, kThreads, kDecodeBlocks * WarpMemory<kD>::bytes, decode_kernel<kD>, in, splits,
         a.n_kv_heads, head_tiles, parts);
  launch(at, ceil_div(n_segments * a.n_heads, kFoldThreads / 32), kFoldThreads, 0, fold_kernel<kD>, in, segments, n_segments, parts,
         a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride);
}

}  // namespace

size_t attention_decode_scratch(const AttentionArgs& a, int64_t n_blocks) {
  return static_cast<size_t>(n_blocks * a.n_heads) * (static_cast<size_t>(a.head_dim) * sizeof(float) + sizeof(RowState));
}

void attention_decode(const Launch& at, const AttentionArgs& a, const DecodeSplit* splits, int64_t n_splits, const DecodeSegment* segments,
                      int64_t n_segments, int64_t n_blocks, void* scratch) {
  check(plan_attention(a).decode, ErrorCode::internal, "attention_decode: these tensors are not for tensor cores");
  const DecodeParts parts = parts_in(scratch, a, n_blocks);
  if (a.head_dim == 64) return launch_decode<64>(at, a, splits, n_splits, segments, n_segments, parts);
  if (a.head_dim == 96) return launch_decode<96>(at, a, splits, n_splits, segments, n_segments, parts);
  launch_decode<128>(at, a, splits, n_splits, segments, n_segments, parts);
}

}  // namespace rlhi::ops::cuda
