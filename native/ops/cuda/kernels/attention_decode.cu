// Attention of segments of length one: every warp takes one block of kKeyBlock keys for the query heads that share its
// key/value head, of as many segments that see the block as a tile has room for, and leaves the block's parts in memory; a second
// kernel folds a row's parts in order. The parts and the folds are those of attention_forward.cu, so the bits are too.
#include <algorithm>

#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 32 * kDecodeBlocks, kTileRows = 16;  // of a warp: heads of one query, then those of the next; the last ones empty

template <int kD>
struct WarpMemory {
  static constexpr int q = 0, k = q + tile_bytes(kTileRows, kD), v = k + tile_bytes(kKeyBlock, kD), bytes = v + tile_bytes(kKeyBlock, kD);
};

struct DecodeParts {
  float* values;       // [blocks, H, K]: sums of weighted values
  RowState* states;    // [blocks, H]
};
DecodeParts parts_in(void* scratch, const AttentionArgs& a, int64_t n_blocks) {
  auto* values = static_cast<float*>(scratch);
  return {values, reinterpret_cast<RowState*>(values + n_blocks * a.n_heads * a.head_dim)};
}

// A row of a warp's tile: one head of one query.
struct TileRow {
  DecodeQuery query;
  int head;
  bool used;
};

// One block: a split and up to 16 heads of a group.
template <int kD>
RLHI_KERNEL(kThreads, 1)
void decode_kernel(AttentionInputs in, const DecodeSplit* splits, const DecodeQuery* queries, int n_kv_heads, int head_tiles, DecodeParts parts) {
  using P = Products<false>;
  using Memory = WarpMemory<kD>;
  const DecodeSplit split = splits[block_index() / (n_kv_heads * head_tiles)];
  const int kv_head = block_index() / head_tiles % n_kv_heads, first_head = block_index() % head_tiles * kTileRows;
  const int warp = thread_index() / 32, lane = thread_index() % 32, keys = least(kKeyBlock, split.n_keys - warp * kKeyBlock);
  if (keys <= 0) return;  // a warp alike; warps do not wait for one another
  unsigned char* const memory = shared_memory() + warp * Memory::bytes;
  const KeyBlock block{split.row + warp * kKeyBlock, split.position + warp * kKeyBlock, keys};
  const int heads = least(kTileRows, in.group - first_head), rows = heads * split.n_queries;
  const auto row_at = [&](int row) {
    const int used = least(row, rows - 1);
    return TileRow{queries[split.first_query + used / heads], kv_head * in.group + first_head + used % heads, row < rows};
  };
  constexpr int kUnits = kD / 8;
  RLHI_UNROLL
  for (int i = 0; i < kTileRows * kUnits / 32; ++i) {
    const int row = (i * 32 + lane) / kUnits, unit = (i * 32 + lane) % kUnits;
    const TileRow r = row_at(row);
    copy_async(tile_unit<kTileRows>(memory + Memory::q, row, unit), bf16_row(in.q, in.q_stride, in.segments[r.query.segment].row, r.head * kD + unit * 8), r.used);
  }
  load_tile<kKeyBlock, kD, 32>(memory + Memory::k, bf16_row(in.k, in.k_stride, block.row, kv_head * kD), in.k_stride, keys);
  copy_commit();
  load_tile<kKeyBlock, kD, 32>(memory + Memory::v, bf16_row(in.v, in.v_stride, block.row, kv_head * kD), in.v_stride, keys);
  copy_commit();

  const TileRow own[2] = {row_at(lane / 4), row_at(lane / 4 + 8)};
  const int position[2] = {in.segments[own[0].query.segment].position, in.segments[own[1].query.segment].position};
  copy_wait<1>();
  sync_warp();
  float s[8][4];
  P::warp_scores<kD, kTileRows, kKeyBlock>(s, memory + Memory::q, 0, memory + Memory::k, thread_index() % 32);
  const QueryRange range{least(position[0], position[1]), most(position[0], position[1])};
  if (!sees_all(range, block, in.window)) {
    const ColumnRange c0 = columns_seen(block, position[0], in.window), c1 = columns_seen(block, position[1], in.window);
    mask_scores(s, c0.low, c0.high, c1.low, c1.high);
  }
  RowState part[2];
  block_softmax(s, in.scale * kLog2e, part);
  uint32_t weights[4][4];
  RLHI_UNROLL
  for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
  copy_wait<0>();
  sync_warp();
  for_panels<kD>([&](auto panel) {
    constexpr int kFragments = kPanelFragments<kD, decltype(panel)::value>;
    float sum[kFragments][4];
    P::weighted<kKeyBlock>(sum, weights, memory + Memory::v, decltype(panel)::value, false);
    RLHI_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (!own[i].used) continue;
      const int64_t place = own[i].query.first_block + warp;
      float* to = parts.values + (place * in.n_heads + own[i].head) * kD + decltype(panel)::value * 64 + lane % 4 * 2;
      RLHI_UNROLL
      for (int n = 0; n < kFragments; ++n) store_words(to + n * 8, Words2{{as_bits(sum[n][2 * i]), as_bits(sum[n][2 * i + 1])}});
    }
  });
  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (own[i].used && lane % 4 == 0) parts.states[static_cast<int64_t>(own[i].query.first_block + warp) * in.n_heads + own[i].head] = part[i];
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
void launch_decode(const Launch& at, const AttentionArgs& a, const DecodeWork& work, const DecodeParts& parts) {
  const AttentionInputs in = inputs_of(a);
  const int head_tiles = static_cast<int>(ceil_div(in.group, kTileRows));
  launch(at, work.n_splits * a.n_kv_heads * head_tiles, kThreads, kDecodeBlocks * WarpMemory<kD>::bytes, decode_kernel<kD>, in, work.splits,
         work.queries, a.n_kv_heads, head_tiles, parts);
  launch(at, ceil_div(work.n_segments * a.n_heads, kFoldThreads / 32), kFoldThreads, 0, fold_kernel<kD>, in, work.segments, work.n_segments, parts,
         a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride);
}

}  // namespace

size_t attention_decode_scratch(const AttentionArgs& a, int64_t n_blocks) {
  return static_cast<size_t>(n_blocks * a.n_heads) * (static_cast<size_t>(a.head_dim) * sizeof(float) + sizeof(RowState));
}

int decode_queries(const AttentionArgs& a) { return std::max(1, kTileRows / (a.n_heads / a.n_kv_heads)); }

void attention_decode(const Launch& at, const AttentionArgs& a, const DecodeWork& work, void* scratch) {
  check(plan_attention(a).decode, ErrorCode::internal, "attention_decode: these tensors are not for tensor cores");
  const DecodeParts parts = parts_in(scratch, a, work.n_blocks);
  with_head_dim(a.head_dim, [&](auto dim) { launch_decode<decltype(dim)::value>(at, a, work, parts); });
}

}  // namespace rlhi::ops::cuda
