// The gradients of attention on tensor cores, without atomics: one pass over tiles of queries gives dq, one over tiles of keys
// gives dk and dv. Both make scores and weights again from the log-sum-exp; each row is summed in one order.
#include "ops/cuda/kernels/attention_backward_group.cuh"
#include "ops/cuda/kernels/attention_gradients.cuh"
#include "ops/cuda/kernels/attention_pipeline.cuh"

namespace rlhi::ops::cuda {
namespace {

// ---- dq --------------------------------------------------------------------------------------------------------------
template <int kD, int kRows>
struct QueryMemory {
  static constexpr int q = 0, dout = q + tile_bytes(kRows, kD), k = dout + tile_bytes(kRows, kD), stage = tile_bytes(kKeyBlock, kD),
                       v = k + kStages * stage, barrier = v + kStages * stage, walk = barrier + 8,
                       bytes = walk + static_cast<int>(sizeof(SharedWalk<BlockWalk, KeyBlock>));
};

// One block: a tile of one head's queries. While the tensor cores add block j to dq, they are given the scores of block j + 1.
template <int kD, int kGroups, bool kGroupForm>
RLHI_KERNEL(Tile<kGroups>::threads, 1)
void dq_kernel(AttentionInputs in, Gradients g, const QueryTile* tiles) {
  constexpr int kThreads = Tile<kGroups>::threads, kRows = Tile<kGroups>::rows;
  using P = Products<kGroupForm || RLHI_GROUP_PRODUCTS>;
  using Memory = QueryMemory<kD, kRows>;
  unsigned char* const memory = shared_memory();
  const QueriesOfTile own = queries_of_tile<kGroups>(in, tiles);
  const int64_t tensor_row = own.tensor_row();
  auto& walk = *reinterpret_cast<SharedWalk<BlockWalk, KeyBlock>*>(memory + Memory::walk);
  const auto place = [&](int first, int step) { return memory + first + step % kStages * Memory::stage; };
  const auto load_block = [&](int step) {
    load_keys<kD, kGroups>(place(Memory::k, step), place(Memory::v, step), in, walk.at(step), own.kv_head);
  };
  walk.start(in, BlockWalk::over(own.segment, own.range));
  const Pipeline<P, kThreads> pipeline(memory + Memory::barrier);
  const int column = own.head * kD;
  load_tile<kRows, kD, kThreads>(memory + Memory::q, bf16_row(in.q, in.q_stride, tensor_row, column), in.q_stride, own.rows);
  load_tile<kRows, kD, kThreads>(memory + Memory::dout, bf16_row(g.dout, g.dout_stride, tensor_row, column), g.dout_stride, own.rows);
  load_block(0);
  pipeline.arrive();
  load_block(1);

  float lse_log2[2], delta[2];
  RLHI_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int64_t at = (tensor_row + own.row + 8 * i) * in.n_heads + own.head;
    const bool there = own.row + 8 * i < own.rows;
    lse_log2[i] = there ? g.lse_log2[at] : -negative_infinity();
    delta[i] = there ? g.delta[at] : 0.0f;
  }
  float dq[kD / 8][4] = {};
  const float scale_log2 = in.scale * kLog2e;
  StepRange steps = steps_of(in, own.segment, own.range, own.group_range);
  if (own.group_row >= own.rows) steps.first = steps.end = 0;
  int step = 0;
  // What a step does beside its products: lets others know, and begins copies for later steps.
  const auto go_on = [&] {
    pipeline.arrive();
    load_block(step + 2);
    if (has_duty<kGroups>(2) && thread_index() % kGroupThreads == 0) walk.find(in, step);
  };
  const auto pass = [&](int end) {  // steps in which this warpgroup has nothing to do
    for (; step < end; ++step) {
      pipeline.wait(step);
      go_on();
    }
  };
  pass(steps.first);
  P::begin(dq);
  for (; step < steps.end; ++step) {
    pipeline.wait(step);
    float s[8][4], ds[8][4];
    P::begin(s);
    P::begin(ds);
    P::template scores<kD, kRows, kKeyBlock>(s, memory + Memory::q, own.group_row, place(Memory::k, step));
    P::template scores<kD, kRows, kKeyBlock>(ds, memory + Memory::dout, own.group_row, place(Memory::v, step));
    P::commit();
    P::template wait<1>();  // the step before has ended
    go_on();
    P::template wait<0>();
    P::end(s);
    P::end(ds);
    const KeyBlock block = walk.at(step);
    if (!sees_all(own.group_range, block, in.window)) hide_unseen(s, block, own.position + own.row, in.window);
    RLHI_UNROLL
    for (int n = 0; n < 8; ++n) {
      RLHI_UNROLL
      for (int j = 0; j < 4; ++j) {
        const float weight = exp2_fast(fused_multiply_add(s[n][j], scale_log2, -lse_log2[j / 2]));
        ds[n][j] = weight * (ds[n][j] - delta[j / 2]);
      }
    }
    uint32_t weights[4][4];
    RLHI_UNROLL
    for (int k = 0; k < 4; ++k) pack_scores(weights[k], ds, k);
    P::begin(dq);
    for_panels<kD>([&](auto panel) {
      constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
      P::template weighted<kKeyBlock>(fragments_at<kFragments>(dq, kPanel * 8), weights, place(Memory::k, step), kPanel, true);
    });
    P::commit();
  }
  P::template wait<0>();
  P::end(dq);
  pass(steps.all);
  copy_wait<0>();
  store_fragments(g.dq, g.dq_stride, tensor_row + own.row, own.row < own.rows, own.row + 8 < own.rows, column, dq, in.scale);
}

// ---- dk and dv -------------------------------------------------------------------------------------------------------
template <int kD, int kRows>
struct KeyMemory {
  static constexpr int k = 0, v = k + tile_bytes(kRows, kD), q = v + tile_bytes(kRows, kD), stage = tile_bytes(kQueryBlock, kD),
                       dout = q + kStages * stage, rows = dout + kStages * stage,
                       barrier = rows + kStages * 2 * kQueryBlock * static_cast<int>(sizeof(float)), walk = barrier + 8,
                       bytes = walk + static_cast<int>(sizeof(SharedWalk<QueryWalk, QueryBlock>));
};

// One block: a tile of one head's keys.
template <int kD, int kGroups, bool kGroupForm>
RLHI_KERNEL(Tile<kGroups>::threads, 1)
void dkv_kernel(AttentionInputs in, Gradients g, const KeyTile* tiles, const Visitor* visitors, int n_kv_heads) {
  constexpr int kThreads = Tile<kGroups>::threads, kRows = Tile<kGroups>::rows;
  using P = Products<kGroupForm || RLHI_GROUP_PRODUCTS>;
  constexpr int kColumns = P::template kColumnsBesideTwoSums<kD>;  // of scores at a time
  using Memory = KeyMemory<kD, kRows>;
  unsigned char* const memory = shared_memory();
  auto* const row_values = reinterpret_cast<float*>(memory + Memory::rows);  // [kStages][kQueryBlock][lse, delta]
  const KeyTile tile = tiles[block_index() / n_kv_heads];
  const int kv_head = block_index() % n_kv_heads;
  const QuerySegment owner = in.segments[tile.segment];
  const int key_row = in.spans[owner.first_span + owner.n_spans - 1].row + tile.first;
  const int rows = least(kRows, owner.length - tile.first);
  const int group_row = thread_index() / kGroupThreads * kGroupRows;
  const auto row_of_thread = [&] { return group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4; };  // and + 8

  const auto place = [&](int first, int step) { return memory + first + step % kStages * Memory::stage; };
  auto& walk = *reinterpret_cast<SharedWalk<QueryWalk, QueryBlock>*>(memory + Memory::walk);
  const auto load_block = [&](int step) {
    const QueryBlock b = walk.at(step);
    if (b.queries > 0 && has_duty<kGroups>(0)) {
      const void* from = bf16_row(in.q, in.q_stride, b.row, b.head * kD);
      load_tile<kQueryBlock, kD, kGroupThreads>(place(Memory::q, step), from, in.q_stride, b.queries);
      // Half of the threads fetch lse, half delta. A query beyond the block is a row of zeros throughout: it adds nothing.
      const int i = thread_index() % kQueryBlock, half = thread_index() % kGroupThreads / kQueryBlock;
      copy_async_word(row_values + (step % kStages * kQueryBlock + i) * 2 + half,
                      (half == 0 ? g.lse_log2 : g.delta) + static_cast<int64_t>(b.row + i) * in.n_heads + b.head, i < b.queries);
    }
    if (b.queries > 0 && has_duty<kGroups>(1)) {
      const void* from = bf16_row(g.dout, g.dout_stride, b.row, b.head * kD);
      load_tile<kQueryBlock, kD, kGroupThreads>(place(Memory::dout, step), from, g.dout_stride, b.queries);
    }
    copy_commit();
  };
  walk.start(in, QueryWalk::over(in, visitors + tile.first_visitor, tile.n_visitors, key_row, rows, kv_head * in.group));
  const Pipeline<P, kThreads> pipeline(memory + Memory::barrier);
  load_tile<kRows, kD, kThreads>(memory + Memory::k, bf16_row(in.k, in.k_stride, key_row, kv_head * kD), in.k_stride, rows);
  load_tile<kRows, kD, kThreads>(memory + Memory::v, bf16_row(in.v, in.v_stride, key_row, kv_head * kD), in.v_stride, rows);
  load_block(0);
  pipeline.arrive();
  load_block(1);

  // What a step does beside its products: lets others know, and begins copies for later steps.
  const auto go_on = [&](int step) {
    pipeline.arrive();
    load_block(step + 2);
    if (has_duty<kGroups>(2) && thread_index() % kGroupThreads == 0) walk.find(in, step);
  };
  float dk[kD / 8][4] = {}, dv[kD / 8][4] = {};
  const float scale_log2 = in.scale * kLog2e;
  for (int step = 0; walk.at(step).queries > 0; ++step) {
    pipeline.wait(step);
    const QueryBlock& block = walk.at(step);
    const KeyBlock group_keys{0, block.key_position + group_row, least(walk.walk.keys - group_row, kGroupRows)};
    const QueryRange range{block.position, block.position + block.queries - 1};
    if (group_keys.keys <= 0 || !sees_some(range, group_keys, in.window)) {  // a warpgroup alike
      go_on(step);
      continue;
    }
    unsigned char *const q = place(Memory::q, step), *const dout = place(Memory::dout, step);
    const float* const columns = row_values + (step % kStages * kQueryBlock + thread_index() % 4 * 2) * 2;  // this thread's queries
    const auto add_part = [&](int part) {
      unsigned char *const part_q = q + part * kColumns * 128, *const part_dout = dout + part * kColumns * 128;
      float s[kColumns / 8][4], ds[kColumns / 8][4];
      P::begin(s);
      P::begin(ds);
      P::template scores<kD, kRows, kQueryBlock>(s, memory + Memory::k, group_row, part_q);
      P::template scores<kD, kRows, kQueryBlock>(ds, memory + Memory::v, group_row, part_dout);
      P::commit();
      if (part == 0) go_on(step);
      P::template wait<0>();
      P::end(s);
      P::end(ds);
      const bool whole = block.first_key <= group_row && block.end_key >= group_row + kGroupRows;
      if (!whole || !sees_all(range, group_keys, in.window)) mask_transposed(s, block, part * kColumns, row_of_thread(), in.window);
      RLHI_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        const Words4 two = load_words<Words4>(columns + (part * kColumns / 8 + n) * 16);  // lse and delta of one query, then of the next
        RLHI_UNROLL
        for (int j = 0; j < 4; ++j) {
          s[n][j] = exp2_fast(fused_multiply_add(s[n][j], scale_log2, -as_float(two.w[j % 2 * 2])));
          ds[n][j] = s[n][j] * (ds[n][j] - as_float(two.w[j % 2 * 2 + 1]));
        }
      }
      uint32_t weights[kColumns / 16][4], dweights[kColumns / 16][4];
      RLHI_UNROLL
      for (int k = 0; k < kColumns / 16; ++k) {
        pack_scores(weights[k], s, k);
        pack_scores(dweights[k], ds, k);
      }
      P::begin(dv);
      P::begin(dk);
      for_panels<kD>([&](auto panel) {
        constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
        P::template weighted<kQueryBlock>(fragments_at<kFragments>(dv, kPanel * 8), weights, part_dout, kPanel, true);
        P::template weighted<kQueryBlock>(fragments_at<kFragments>(dk, kPanel * 8), dweights, part_q, kPanel, true);
      });
      P::commit();
      P::template wait<0>();
      P::end(dv);
      P::end(dk);
    };
    // As many queries at a time as registers allow: all of them, or in two parts, of which a short block has one.
    if constexpr (kColumns == kQueryBlock) {
      add_part(0);
    } else {
      RLHI_UNROLL_BY(1)
      for (int part = 0; part * kColumns < block.queries; ++part) add_part(part);
    }
  }
  copy_wait<0>();
  // The walk still knows the tile; the loop had no registers to keep it in.
  const int row = row_of_thread(), to_row = walk.walk.key_row + row, column = walk.walk.first_head / in.group * kD;
  const bool row0 = row < walk.walk.keys, row1 = row + 8 < walk.walk.keys;
  store_fragments(g.dk, g.dk_stride, to_row, row0, row1, column, dk, in.scale);
  store_fragments(g.dv, g.dv_stride, to_row, row0, row1, column, dv, 1.0f);
}

// Shared memory of tiles of this many warpgroups, the largest head size included.
template <int kGroups>
constexpr size_t backward_bytes() {
  constexpr int keys = KeyMemory<128, Tile<kGroups>::rows>::bytes, queries = QueryMemory<128, Tile<kGroups>::rows>::bytes;
  return static_cast<size_t>(keys > queries ? keys : queries);
}
static_assert(backward_bytes<2>() <= 227 << 10 && backward_bytes<1>() <= 163 << 10, "the shared memory of sm_90 and of sm_80");

template <int kD, int kGroups>
void launch_backward(const Launch& at, const AttentionBackwardArgs& b, const BackwardTiles& tiles, const BackwardRows& rows) {
  constexpr int kThreads = Tile<kGroups>::threads, kRows = Tile<kGroups>::rows;
  const AttentionArgs& a = b.forward;
  const Gradients g = gradients_of(b, rows);
  const AttentionInputs in = inputs_of(a);
  with_product_form([&](auto form) {
    constexpr bool kForm = decltype(form)::value;
    launch(at, tiles.n_key_tiles * a.n_kv_heads, kThreads, KeyMemory<kD, kRows>::bytes, dkv_kernel<kD, kGroups, kForm>, in, g,
           tiles.key_tiles, tiles.visitors, a.n_kv_heads);
    launch(at, tiles.n_query_tiles * a.n_heads, kThreads, QueryMemory<kD, kRows>::bytes, dq_kernel<kD, kGroups, kForm>, in, g,
           tiles.query_tiles);
  });
}

template <int kGroups>
void launch_backward(const Launch& at, const AttentionBackwardArgs& b, const BackwardTiles& tiles, const BackwardRows& rows) {
  with_head_dim(b.forward.head_dim, [&](auto dim) { launch_backward<decltype(dim)::value, kGroups>(at, b, tiles, rows); });
}

}  // namespace

AttentionPlan plan_attention_backward(const AttentionBackwardArgs& b, bool specialized) {
  const AttentionArgs& a = b.forward;
  AttentionPlan plan;
  const size_t shared = largest_shared_memory();
  plan.tensor_cores = shared >= backward_bytes<1>() && on_tensor_cores({a.q, a.k, a.v, a.out, b.dout, b.dq, b.dk, b.dv}, a.head_dim);
  plan.specialized = specialized && plan.tensor_cores && group_gradients_there();
  plan.dq_rows = plan.key_rows = !plan.tensor_cores ? kPlainRows : shared >= backward_bytes<2>() ? Tile<2>::rows : Tile<1>::rows;
  if (plan.specialized) plan.dq_rows = group_dq_rows(a), plan.key_rows = kGradientRows;
  return plan;
}

size_t attention_backward_scratch(const AttentionBackwardArgs& b) {
  return static_cast<size_t>(b.forward.q.rows * b.forward.n_heads) * 2 * sizeof(float);
}

void attention_backward(const Launch& at, const AttentionPlan& plan, const AttentionBackwardArgs& b, const BackwardTiles& tiles,
                        void* scratch) {
  auto* lse_log2 = static_cast<float*>(scratch);
  const BackwardRows rows{lse_log2, lse_log2 + b.forward.q.rows * b.forward.n_heads};
  backward_rows(at, b, rows);
  if (!plan.tensor_cores) return plain_attention_backward(at, b, tiles, rows.delta);
  if (plan.specialized) return group_gradients(at, b, gradients_of(b, rows), tiles);
  if (plan.key_rows == Tile<2>::rows) launch_backward<2>(at, b, tiles, rows);
  else launch_backward<1>(at, b, tiles, rows);
}

}  // namespace rlhi::ops::cuda
