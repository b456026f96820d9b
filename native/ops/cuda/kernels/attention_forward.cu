// Attention on tensor cores: tiles of queries against blocks of kKeyBlock keys (Dao et al., arXiv:2205.14135, 2307.08691).
//
// A block's weighted values are summed by themselves and then folded into the rows' state, so that a row's bits depend on its
// blocks alone: the decoding kernels, which give different blocks to different warps, fold the same parts in the same order.
#include "ops/cuda/kernels/attention_plain.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kGroups = 2, kThreads = kGroups * kGroupThreads, kRows = kGroups * kGroupRows;  // 64 query rows a warpgroup

template <int kD>
struct ForwardMemory {       // offsets into shared memory; keys and values have two places each
  static constexpr int q = 0, k = q + tile_bytes(kRows, kD), stage = tile_bytes(kKeyBlock, kD), v = k + 2 * stage, bytes = v + 2 * stage;
};

struct ForwardOutputs {
  void* out;
  int64_t out_stride;
  float* lse;                // may be nullptr
  int64_t lse_stride;
};

// One block: a tile of one head's queries.
template <int kD, bool kGroupForm>
RLHI_KERNEL(kThreads, 1)
void forward_kernel(AttentionInputs in, ForwardOutputs to, const QueryTile* tiles) {
  using P = Products<kGroupForm || RLHI_GROUP_PRODUCTS>;
  using Memory = ForwardMemory<kD>;
  unsigned char* const memory = shared_memory();
  const QueryTile tile = tiles[block_index() / in.n_heads];
  const int head = block_index() % in.n_heads, kv_head = head / in.group;
  const QuerySegment segment = in.segments[tile.segment];
  const int rows = least(kRows, segment.length - tile.first), first_position = segment.position + tile.first;
  const int group_row = thread_index() / kGroupThreads * kGroupRows;
  const int row = group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4;  // and row + 8
  const QueryRange tile_range{first_position, first_position + rows - 1};
  const QueryRange group_range{first_position + group_row, first_position + least(rows, group_row + kGroupRows) - 1};

  const auto load_keys = [&](unsigned char* at, const void* data, int64_t stride, const KeyBlock& b) {
    if (b.keys > 0) load_tile<kKeyBlock, kD, kThreads>(at, bf16_row(data, stride, b.row, kv_head * kD), stride, b.keys);
    copy_commit();
  };
  BlockWalk walk(in, segment, tile_range);
  KeyBlock block = walk.next();
  load_tile<kRows, kD, kThreads>(memory + Memory::q, bf16_row(in.q, in.q_stride, segment.row + tile.first, head * kD), in.q_stride, rows);
  load_keys(memory + Memory::k, in.k, in.k_stride, block);
  load_keys(memory + Memory::v, in.v, in.v_stride, block);

  float out[kD / 8][4] = {};
  RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
  const float scale_log2 = in.scale * kLog2e;
  for (int stage = 0; block.keys > 0; stage ^= 1) {
    const KeyBlock next = walk.next();
    const bool busy = group_row < rows && sees_some(group_range, block, in.window);  // a warpgroup alike
    copy_wait<1>();          // the keys; the values may still be on their way
    P::loaded();
    sync_threads();
    load_keys(memory + Memory::k + (stage ^ 1) * Memory::stage, in.k, in.k_stride, next);
    float s[8][4];
    RowState part[2];
    if (busy) {
      P::begin(s);
      P::template scores<kD, kRows, kKeyBlock>(s, memory + Memory::q, group_row, memory + Memory::k + stage * Memory::stage);
      P::commit();
      P::wait();
      P::end(s);
      if (!sees_all(group_range, block, in.window)) {
        const ColumnRange c0 = columns_seen(block, first_position + row, in.window), c1 = columns_seen(block, first_position + row + 8, in.window);
        mask_scores(s, c0.low, c0.high, c1.low, c1.high);
      }
      block_softmax(s, scale_log2, part);
    }
    copy_wait<1>();          // the values
    P::loaded();
    sync_threads();
    load_keys(memory + Memory::v + (stage ^ 1) * Memory::stage, in.v, in.v_stride, next);
    if (busy) {
      uint32_t weights[4][4];
      RLHI_UNROLL
      for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
      const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
      const bool rescale = warp_any(f0.before != 1.0f || f1.before != 1.0f);
      for_panels<kD>([&](auto panel) {
        constexpr int kFragments = kPanelFragments<kD, decltype(panel)::value>;
        float sum[kFragments][4];
        P::begin(sum);
        P::template weighted<kKeyBlock>(sum, weights, memory + Memory::v + stage * Memory::stage, decltype(panel)::value, false);
        P::commit();
        P::wait();
        P::end(sum);
        float(&to_panel)[kFragments][4] = fragments_at<kFragments>(out, decltype(panel)::value * 8);
        if (rescale) {
          RLHI_UNROLL
          for (int n = 0; n < kFragments; ++n) {
            to_panel[n][0] *= f0.before, to_panel[n][1] *= f0.before, to_panel[n][2] *= f1.before, to_panel[n][3] *= f1.before;
          }
        }
        RLHI_UNROLL
        for (int n = 0; n < kFragments; ++n) {
          RLHI_UNROLL
          for (int j = 0; j < 4; ++j) to_panel[n][j] = fused_multiply_add(sum[n][j], j < 2 ? f0.block : f1.block, to_panel[n][j]);
        }
      });
    }
    block = next;
  }
  copy_wait<0>();

  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = row + 8 * i;
    if (r >= rows) continue;
    const int64_t at = segment.row + tile.first + r;
    const float factor = state[i].sum > 0 ? 1.0f / state[i].sum : 1.0f;
    auto* to_row = static_cast<uint16_t*>(to.out) + at * to.out_stride + head * kD + thread_index() % 4 * 2;
    RLHI_UNROLL
    for (int n = 0; n < kD / 8; ++n) store_words(to_row + n * 8, pack_bf16(out[n][2 * i] * factor, out[n][2 * i + 1] * factor));
    if (to.lse && thread_index() % 4 == 0) to.lse[at * to.lse_stride + head] = log_sum(state[i]);
  }
}

template <int kD>
void launch_forward(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  const ForwardOutputs to{a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride};
  with_product_form([&](auto form) {
    launch(at, n_tiles * a.n_heads, kThreads, ForwardMemory<kD>::bytes, forward_kernel<kD, decltype(form)::value>, inputs_of(a), to, tiles);
  });
}

}  // namespace

AttentionPlan plan_attention(const AttentionArgs& a) {
  AttentionPlan plan;
  plan.tensor_cores = on_tensor_cores({a.q, a.k, a.v, a.out}, a.head_dim);
  plan.forward_rows = plan.tensor_cores ? kRows : kPlainRows;
  plan.decode = plan.tensor_cores;
  return plan;
}

void attention(const Launch& at, const AttentionPlan& plan, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  if (n_tiles == 0) return;
  if (!plan.tensor_cores) return plain_attention(at, a, tiles, n_tiles);
  if (a.head_dim == 64) return launch_forward<64>(at, a, tiles, n_tiles);
  if (a.head_dim == 96) return launch_forward<96>(at, a, tiles, n_tiles);
  launch_forward<128>(at, a, tiles, n_tiles);
}

}  // namespace rlhi::ops::cuda
