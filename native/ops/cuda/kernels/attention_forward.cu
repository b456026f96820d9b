// Attention on tensor cores: tiles of queries against blocks of kKeyBlock keys (Dao et al., arXiv:2205.14135, 2307.08691).
//
// A block's weighted values are summed by themselves and then folded into the rows' state, so that a row's bits depend on its
// blocks alone: the decoding kernels, which give different blocks to different warps, fold the same parts in the same order.
#include "ops/cuda/kernels/attention_forward_group.cuh"
#include "ops/cuda/kernels/attention_pipeline.cuh"
#include "ops/cuda/kernels/attention_plain.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

template <int kD, int kRows>
struct ForwardMemory {       // offsets into shared memory
  static constexpr int q = 0, k = q + tile_bytes(kRows, kD), stage = tile_bytes(kKeyBlock, kD), v = k + kStages * stage,
                       barrier = v + kStages * stage, walk = barrier + 8,
                       bytes = walk + static_cast<int>(sizeof(SharedWalk<BlockWalk, KeyBlock>));
};

struct ForwardOutputs {
  void* out;
  int64_t out_stride;
  float* lse;                // may be nullptr
  int64_t lse_stride;
};

// One block: a tile of one head's queries.
template <int kD, int kGroups>
RLHI_KERNEL(Tile<kGroups>::threads, 1)
void forward_kernel(AttentionInputs in, ForwardOutputs to, const QueryTile* tiles) {
  constexpr int kThreads = Tile<kGroups>::threads, kRows = Tile<kGroups>::rows;
  using P = Products<false>;
  using Memory = ForwardMemory<kD, kRows>;
  unsigned char* const memory = shared_memory();
  const QueriesOfTile own = queries_of_tile<kGroups>(in, tiles);
  auto& walk = *reinterpret_cast<SharedWalk<BlockWalk, KeyBlock>*>(memory + Memory::walk);
  const auto place = [&](int first, int step) { return memory + first + step % kStages * Memory::stage; };
  const auto load_block = [&](int step) {
    load_keys<kD, kGroups, 4>(place(Memory::k, step), place(Memory::v, step), in, walk.at(step), own.kv_head);
  };
  walk.start(in, BlockWalk::over(own.segment, own.range));
  const Pipeline<P, kThreads> pipeline(memory + Memory::barrier);
  load_tile<kRows, kD, kThreads>(memory + Memory::q, bf16_row(in.q, in.q_stride, own.tensor_row(), own.head * kD), in.q_stride, own.rows);
  load_block(0);
  pipeline.arrive();
  load_block(1);

  float out[kD / 8][4] = {};
  RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
  const float scale_log2 = in.scale * kLog2e;
  // What a step does beside its products: lets others know, and begins copies for later steps.
  const auto go_on = [&](int step) {
    pipeline.arrive();
    load_block(step + 2);
    if (has_duty<kGroups>(2) && thread_index() % kGroupThreads == 0) walk.find(in, step);
  };
  for (int step = 0; walk.at(step).keys > 0; ++step) {
    const KeyBlock& block = walk.at(step);
    pipeline.wait(step);
    if (own.group_row >= own.rows || !sees_some(own.group_range, block, in.window)) {  // a warpgroup alike
      go_on(step);
      continue;
    }
    float s[8][4];
    P::begin(s);
    P::template scores<kD, kRows, kKeyBlock>(s, memory + Memory::q, own.group_row, place(Memory::k, step));
    P::commit();
    go_on(step);
    P::template wait<0>();
    P::end(s);
    if (!sees_all(own.group_range, block, in.window)) hide_unseen(s, block, own.position + own.row, in.window);
    RowState part[2];
    block_softmax(s, scale_log2, part);
    uint32_t weights[4][4];
    RLHI_UNROLL
    for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
    const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
    // 32 columns at a time: more sums would not fit into the registers of three warpgroups.
    for_panels<kD>([&](auto panel) {
      constexpr int kPanel = decltype(panel)::value, kAtOnce = 4;
      RLHI_UNROLL
      for (int first = 0; first < kPanelFragments<kD, kPanel>; first += kAtOnce) {
        float sum[kAtOnce][4];
        P::template weighted<kKeyBlock>(sum, weights, place(Memory::v, step), kPanel, false, first);
        fold_values(fragments_at<kAtOnce>(out, kPanel * 8 + first), sum, f0, f1);
      }
    });
  }
  copy_wait<0>();

  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (own.row + 8 * i >= own.rows) continue;
    const int64_t at = own.tensor_row() + own.row + 8 * i;
    const float factor = state[i].sum > 0 ? 1.0f / state[i].sum : 1.0f;
    auto* to_row = static_cast<uint16_t*>(to.out) + at * to.out_stride + own.head * kD + thread_index() % 4 * 2;
    RLHI_UNROLL
    for (int n = 0; n < kD / 8; ++n) store_words(to_row + n * 8, pack_bf16(out[n][2 * i] * factor, out[n][2 * i + 1] * factor));
    if (to.lse && thread_index() % 4 == 0) to.lse[at * to.lse_stride + own.head] = log_sum(state[i]);
  }
}

template <int kD, int kGroups>
void launch_forward(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  const ForwardOutputs to{a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride};
  launch(at, n_tiles * a.n_heads, Tile<kGroups>::threads, ForwardMemory<kD, Tile<kGroups>::rows>::bytes, forward_kernel<kD, kGroups>,
         inputs_of(a), to, tiles);
}
template <int kGroups>
void launch_forward(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  with_head_dim(a.head_dim, [&](auto dim) { launch_forward<decltype(dim)::value, kGroups>(at, a, tiles, n_tiles); });
}

// Shared memory of a tile of this many warpgroups, the largest head size included.
constexpr size_t forward_bytes(int groups) {
  return static_cast<size_t>(groups == 3 ? ForwardMemory<128, Tile<3>::rows>::bytes : ForwardMemory<128, Tile<2>::rows>::bytes);
}
static_assert(forward_bytes(3) <= 227 << 10 && forward_bytes(2) <= 163 << 10, "the shared memory of sm_90 and of sm_80");

}  // namespace

AttentionPlan plan_attention(const AttentionArgs& a) {
  AttentionPlan plan;
  const size_t shared = largest_shared_memory();
  plan.tensor_cores = shared >= forward_bytes(2) && on_tensor_cores({a.q, a.k, a.v, a.out}, a.head_dim);
  const int group_rows = shared >= forward_bytes(3) ? group_attention_rows(a) : 0;
  plan.forward_rows = !plan.tensor_cores ? kPlainRows : group_rows ? group_rows : shared >= forward_bytes(3) ? Tile<3>::rows : Tile<2>::rows;
  plan.decode = plan.tensor_cores;
  return plan;
}

void attention(const Launch& at, const AttentionPlan& plan, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  if (n_tiles == 0) return;
  if (!plan.tensor_cores) return plain_attention(at, a, tiles, n_tiles);
  if (plan.forward_rows == group_attention_rows(a)) return group_attention(at, a, tiles, n_tiles);
  if (plan.forward_rows == Tile<3>::rows) launch_forward<3>(at, a, tiles, n_tiles);
  else launch_forward<2>(at, a, tiles, n_tiles);
}

}  // namespace rlhi::ops::cuda
