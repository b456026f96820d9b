// A warp brings blocks of keys and values, two warpgroups of 64 rows each add them to dq. The rows' queries and output gradients stay in
// registers, so shared memory is read for keys and values alone, and is free for the next tile's rows.
#include "ops/cuda/kernels/attention_backward_group.cuh"

namespace rlhi::ops::cuda {
namespace {

template <int kD>
struct Memory {
  static constexpr int stages = 4, rows_bytes = tile_bytes(kGradientRows, kD), block_bytes = tile_bytes(kKeyBlock, kD);
  static constexpr int q = 0, dout = q + rows_bytes, k = dout + rows_bytes, v = k + stages * block_bytes, shared = v + stages * block_bytes;
  struct Shared : GradientBarriers<stages> {
    KeyBlock blocks[stages];
    TileItem<kGradientGroups> items[2];
    alignas(8) float row_values[kGradientRows][2];  // lse in powers of two, delta
  };
  static constexpr int bytes = shared + static_cast<int>(sizeof(Shared));
};

#if RLHI_HAS_GROUP_PRODUCTS
template <int kD>
RLHI_DEVICE void bring(const AttentionInputs& in, const Gradients& g, const GradientMaps& maps, const Deal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const int lane = thread_index() % 32;
  Ring<M::stages> ring;
  Ring<1> tiles;
  int landed = 0;
  for (int at; (at = item_at(tiles.step)) < deal.items; ++tiles.step) {
    const QueryItem<kGradientGroups> own(in, deal, at);
    constexpr int kValues = kGradientRows / 32;
    float values[kValues][2];
    RLHI_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int place = lane + 32 * i, row = deal.heads == 1 ? place : place % kGroupRows, head = own.head + (deal.heads == 1 ? 0 : place / kGroupRows);
      const int64_t from = static_cast<int64_t>(own.row + row) * in.n_heads + head;
      values[i][0] = row < own.rows ? g.lse_log2[from] : 0.0f;  // a row that is not there is not stored
      values[i][1] = row < own.rows ? g.delta[from] : 0.0f;
    }
    barrier_wait(&shared.item_free, tiles.parity_before());
    RLHI_UNROLL
    for (int i = 0; i < kValues; ++i) store_words(shared.row_values[lane + 32 * i], Words2{{as_bits(values[i][0]), as_bits(values[i][1])}});
    own.template tell<kKeyBlock>(in, shared.items[tiles.step % 2]);
    if (lane == 0) {
      barrier_expect(&shared.item_there, 2 * own.groups() * tile_bytes(kGroupRows, kD));
      own.template copy<kD>(memory + M::q, maps.q, &shared.item_there);
      own.template copy<kD>(memory + M::dout, maps.dout, &shared.item_there);
    }
    const int column = own.head / in.group * kD;
    auto walk = BlockWalk::over(own.segment, own.range);
    for (KeyBlock block = walk.next(in); block.keys > 0; block = walk.next(in), ++ring.step) {
      const int place = ring.place();
      const BlockTiles<kD> tiles_of_block{memory + M::k + place * M::block_bytes, memory + M::v + place * M::block_bytes};
      barrier_wait(&shared.free[place], ring.parity_before());
      SharedBarrier* const there = block.keys == kKeyBlock ? &shared.there[place] : &shared.landed;
      if (lane == 0) {
        shared.blocks[place] = block;
        tiles_of_block.copy(maps.k, maps.v, block.row, column, there);
      }
      if (block.keys == kKeyBlock) {
        sync_warp();                          // no lane is a phase behind the one that expects
        continue;
      }
      barrier_wait(&shared.landed, landed++ % 2);
      tiles_of_block.clear(block.keys, &shared.there[place]);
    }
  }
}

// This thread's part of 64 rows of a tile, as the left factor of products over each 16 of their columns.
template <int kD>
RLHI_DEVICE void load_left(uint32_t (&left)[kD / 16][4], unsigned char* tile, int group) {
  const int lane = thread_index() % 32, row = group * kGroupRows + thread_index() % kGroupThreads / 32 * 16 + lane % 16;
  RLHI_UNROLL
  for (int k = 0; k < kD / 16; ++k) load_matrices(left[k], tile_unit<kGradientRows>(tile, row, k * 2 + lane / 16));
}

template <int kD>
RLHI_DEVICE void compute(const AttentionInputs& in, const Gradients& g, const Deal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  using P = Products<true>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const GroupPlace own(deal.heads == 1);
  const int tile_row = own.group * kGroupRows + own.row - own.group_row;  // the thread's, in shared memory
  const float scale_log2 = in.scale * kLog2e;
  Ring<M::stages> ring;
  Ring<1> tiles;
  const auto pass = [&](int steps) {          // in which this warpgroup has nothing to do
    for (int i = 0; i < steps; ++i, ++ring.step) {
      barrier_wait(&shared.there[ring.place()], ring.parity());
      warp_arrive(&shared.free[ring.place()]);
    }
  };
  for (int at; (at = item_at(tiles.step)) < deal.items; ++tiles.step) {
    barrier_wait(&shared.item_there, tiles.parity());
    const TileItem<kGradientGroups>& item = shared.items[tiles.step % 2];
    uint32_t q[kD / 16][4], dout[kD / 16][4];
    load_left<kD>(q, memory + M::q, own.group);
    load_left<kD>(dout, memory + M::dout, own.group);
    float lse_log2[2], delta[2];
    RLHI_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Words2 values = load_words<Words2>(shared.row_values[tile_row + 8 * i]);
      lse_log2[i] = as_float(values.w[0]), delta[i] = as_float(values.w[1]);
    }
    shared_fence();                           // what ordinary loads have read, boxes overwrite
    warp_arrive(&shared.item_free);
    const int steps = item.steps[own.group].end - item.steps[own.group].first, position = item.position + own.row;
    const QueryRange range = own.queries(item);
    pass(item.steps[own.group].first);
    float dq[kD / 8][4] = {};
    P::begin(dq);
    for (int i = 0; i < steps; ++i, ++ring.step) {
      const int place = ring.place();
      unsigned char *const k = memory + M::k + place * M::block_bytes, *const v = memory + M::v + place * M::block_bytes;
      barrier_wait(&shared.there[place], ring.parity());
      float s[8][4], ds[8][4];
      P::begin(s);
      P::template scores<kKeyBlock>(s, q, k);
      P::commit();
      P::begin(ds);
      P::template scores<kKeyBlock>(ds, dout, v);
      P::commit();
      const KeyBlock block = shared.blocks[place];
      const bool hides = !sees_all(range, block, in.window);
      P::template wait<1>();                  // the step before has ended, and s is there
      P::end(s);
      if (hides) hide_unseen(s, block, position, in.window);
      RLHI_UNROLL
      for (int n = 0; n < 8; ++n) {
        RLHI_UNROLL
        for (int j = 0; j < 4; ++j) s[n][j] = exp2_fast(fused_multiply_add(s[n][j], scale_log2, -lse_log2[j / 2]));
      }
      if (i > 0) warp_arrive(&shared.free[ring.place_before()]);  // here the branch keeps the weights before the wait
      P::template wait<0>();
      P::end(ds);
      RLHI_UNROLL
      for (int n = 0; n < 8; ++n) {
        RLHI_UNROLL
        for (int j = 0; j < 4; ++j) ds[n][j] = s[n][j] * (ds[n][j] - delta[j / 2]);
      }
      uint32_t weights[4][4];
      RLHI_UNROLL
      for (int step = 0; step < 4; ++step) pack_scores(weights[step], ds, step);
      P::begin(dq);
      for_panels<kD>([&](auto panel) {
        constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
        P::template weighted<kKeyBlock>(fragments_at<kFragments>(dq, kPanel * 8), weights, k, kPanel, true);
      });
      P::commit();
    }
    P::template wait<0>();
    P::end(dq);
    if (steps > 0) warp_arrive(&shared.free[ring.place_before()]);
    pass(item.steps[own.group].all - item.steps[own.group].end);
    store_fragments(g.dq, g.dq_stride, item.row + own.row, own.row < item.rows, own.row + 8 < item.rows, (item.head + own.head) * kD, dq, in.scale);
  }
}
#endif

template <int kD>
RLHI_KERNEL((RLHI_HAS_GROUP_PRODUCTS ? kGradientThreads : 32), 1)
void group_dq_kernel(AttentionInputs in, Gradients g, RLHI_GRID_CONSTANT const GradientMaps maps, Deal deal) {
#if RLHI_HAS_GROUP_PRODUCTS
  using M = Memory<kD>;
  unsigned char* const memory = shared_memory();
  begin_barriers(*reinterpret_cast<typename M::Shared*>(memory + M::shared), 1);
  in_roles<kGradientGroups, kComputeRegisters, kBringRegisters>([&] { compute<kD>(in, g, deal, memory); }, [&] { bring<kD>(in, g, maps, deal, memory); });
#endif
}

}  // namespace

bool group_gradients_there() {
#ifdef __CUDACC__
  static const bool there = compiled_for(group_dq_kernel<64>, kGradientThreads, kGradientRegisters);
  return there;
#else
  return emulate::options.group_products;
#endif
}

int group_dq_rows(const AttentionArgs& a) { return kGradientRows / heads_at_once<kGradientGroups>(a); }

void group_dq(const Launch& at, const AttentionBackwardArgs& b, const Gradients& g, const GradientMaps& maps, const QueryTile* tiles, int64_t n_tiles) {
  const AttentionArgs& a = b.forward;
  const int heads = heads_at_once<kGradientGroups>(a);
  const int64_t items = n_tiles * (a.n_heads / heads);
  with_head_dim(a.head_dim, [&](auto dim) {
    constexpr int kD = decltype(dim)::value;
    static_assert(Memory<kD>::bytes <= 227 << 10, "the shared memory of sm_90");
    launch_dealt(at, items, kGradientThreads, Memory<kD>::bytes, group_dq_kernel<kD>, inputs_of(a), g, maps, Deal{tiles, static_cast<int>(items), heads});
  });
}

}  // namespace rlhi::ops::cuda
