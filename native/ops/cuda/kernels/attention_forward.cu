// Attention on tensor cores: tiles of queries against blocks of kKeyBlock keys (Dao et al., arXiv:2205.14135, 2307.08691).
//
// A block's weighted values are summed by themselves and then folded into the rows' state, so that a row's bits depend on its
// blocks alone: the decoding kernels, which give different blocks to different warps, fold the same parts in the same order.
#include "ops/cuda/kernels/attention_pipeline.cuh"
#include "ops/cuda/kernels/attention_plain.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kGroups = 2, kThreads = kGroups * kGroupThreads, kRows = kGroups * kGroupRows;  // 64 query rows a warpgroup

template <int kD>
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

// out = out * before + sum * block, row by row
template <int kFragments>
RLHI_DEVICE void fold_values(float (&out)[kFragments][4], const float (&sum)[kFragments][4], const FoldFactors& f0, const FoldFactors& f1) {
  if (warp_any(f0.before != 1.0f || f1.before != 1.0f)) {
    RLHI_UNROLL
    for (int n = 0; n < kFragments; ++n) out[n][0] *= f0.before, out[n][1] *= f0.before, out[n][2] *= f1.before, out[n][3] *= f1.before;
  }
  RLHI_UNROLL
  for (int n = 0; n < kFragments; ++n) {
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) out[n][j] = fused_multiply_add(sum[n][j], j < 2 ? f0.block : f1.block, out[n][j]);
  }
}

// One block: a tile of one head's queries. Step j makes scores with block j's keys while the tensor cores still sum block j - 1's
// values; so a step needs the keys of its block and the values of the one before.
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

  const auto load_block = [&](int place, const void* data, int64_t stride, const KeyBlock& b) {
    if (b.keys > 0) load_tile<kKeyBlock, kD, kThreads>(memory + place, bf16_row(data, stride, b.row, kv_head * kD), stride, b.keys);
  };
  const auto place = [](int first, int step) { return first + step % kStages * Memory::stage; };
  auto& walk = *reinterpret_cast<SharedWalk<BlockWalk, KeyBlock>*>(memory + Memory::walk);
  walk.start(in, BlockWalk::over(segment, tile_range));
  const Pipeline<P, kThreads> pipeline(memory + Memory::barrier);
  load_tile<kRows, kD, kThreads>(memory + Memory::q, bf16_row(in.q, in.q_stride, segment.row + tile.first, head * kD), in.q_stride, rows);
  load_block(place(Memory::k, 0), in.k, in.k_stride, walk.at(0));
  copy_commit();
  load_block(place(Memory::k, 1), in.k, in.k_stride, walk.at(1));
  load_block(place(Memory::v, 0), in.v, in.v_stride, walk.at(0));
  copy_commit();
  pipeline.arrive();

  float out[kD / 8][4] = {}, sum[kD / 8][4];
  RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}}, part[2];
  uint32_t weights[4][4];
  const float scale_log2 = in.scale * kLog2e;
  StepRange steps = steps_of(in, segment, tile_range, group_range);
  if (group_row >= rows) steps.first = steps.end = 0;
  int step = 0;
  // Opens a step: block `step` may be used, copies for later steps are on their way.
  const auto open_step = [&] {
    pipeline.wait(step);
    load_block(place(Memory::k, step + 2), in.k, in.k_stride, walk.at(step + 2));
    load_block(place(Memory::v, step + 1), in.v, in.v_stride, walk.at(step + 1));
    copy_commit();
    walk.find(in, step);
  };
  float s[8][4];
  const auto start_scores = [&] {
    P::begin(s);
    P::template scores<kD, kRows, kKeyBlock>(s, memory + Memory::q, group_row, memory + place(Memory::k, step));
    P::commit();
  };
  const auto start_values = [&] {
    P::begin(sum);
    for_panels<kD>([&](auto panel) {
      constexpr int kPanel = decltype(panel)::value;
      P::template weighted<kKeyBlock>(fragments_at<kPanelFragments<kD, kPanel>>(sum, kPanel * 8), weights, memory + place(Memory::v, step - 1),
                                      kPanel, false);
    });
    P::commit();
  };
  const auto make_weights = [&] {
    P::end(s);
    const KeyBlock now = walk.at(step);
    if (!sees_all(group_range, now, in.window)) {
      const ColumnRange c0 = columns_seen(now, first_position + row, in.window), c1 = columns_seen(now, first_position + row + 8, in.window);
      mask_scores(s, c0.low, c0.high, c1.low, c1.high);
    }
    block_softmax(s, scale_log2, part);
  };
  const auto pack = [&] {
    RLHI_UNROLL
    for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
  };
  const auto pass = [&](int end) {  // steps in which this warpgroup has nothing to do
    for (; step < end; ++step) {
      open_step();
      pipeline.arrive();
    }
  };

  pass(steps.first);
  if (steps.first < steps.end) {
    open_step();
    start_scores();
    pipeline.arrive();
    P::template wait<0>();
    make_weights();
    pack();
    for (++step; step < steps.end; ++step) {
      open_step();
      start_scores();
      start_values();
      const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
      pipeline.arrive();
      P::template wait<1>();
      make_weights();
      P::template wait<0>();
      P::end(sum);
      fold_values(out, sum, f0, f1);
      pack();
    }
    open_step();
    start_values();
    const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
    pipeline.arrive();
    P::template wait<0>();
    P::end(sum);
    fold_values(out, sum, f0, f1);
    ++step;
  }
  pass(steps.all);
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

static_assert(ForwardMemory<128>::bytes <= 163 << 10, "the shared memory of sm_80");

}  // namespace

AttentionPlan plan_attention(const AttentionArgs& a) {
  AttentionPlan plan;
  plan.tensor_cores = largest_shared_memory() >= ForwardMemory<128>::bytes && on_tensor_cores({a.q, a.k, a.v, a.out}, a.head_dim);
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
