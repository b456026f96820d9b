// A warp brings blocks of queries and their output gradients, two warpgroups of 64 keys each add them to dk and dv. A warpgroup's arithmetic
// runs beside products of its own: weights are made under dout times values, and their gradients under what they add to dv.
#include "ops/cuda/kernels/attention_backward_group.cuh"

namespace rlhi::ops::cuda {
namespace {

struct KeyItem {
  int row, keys, column;                       // first row of k and v; keys of the tile; first column of its head
};

template <int kD>
struct Memory {
  static constexpr int stages = 4, keys_bytes = tile_bytes(kGradientRows, kD), block_bytes = tile_bytes(kQueryBlock, kD);
  static constexpr int k = 0, v = k + keys_bytes, q = v + keys_bytes, dout = q + stages * block_bytes, shared = dout + stages * block_bytes;
  struct Shared : GradientBarriers<stages> {
    alignas(16) float row_values[stages][kQueryBlock][2];  // lse in powers of two, delta
    QueryBlock blocks[stages];                 // one of 0 queries ends an item
    KeyItem items[2];
  };
  static constexpr int bytes = shared + static_cast<int>(sizeof(Shared));
};

// Tiles of keys times heads of keys, heads fastest, most work first.
struct KeyDeal {
  const KeyTile* tiles;
  const Visitor* visitors;
  int items, heads;
};

#if RLHI_HAS_GROUP_PRODUCTS
template <int kD>
RLHI_DEVICE void bring(const AttentionInputs& in, const Gradients& g, const GradientMaps& maps, const KeyDeal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const int lane = thread_index() % 32;
  Ring<M::stages> ring;
  Ring<1> tiles;
  int landed = 0;
  for (int at; (at = item_at(tiles.step)) < deal.items; ++tiles.step) {
    const KeyTile tile = deal.tiles[at / deal.heads];
    const int kv_head = at % deal.heads, column = kv_head * kD;
    const QuerySegment owner = in.segments[tile.segment];
    const int row = in.spans[owner.first_span + owner.n_spans - 1].row + tile.first, keys = least(kGradientRows, owner.length - tile.first);
    QueryWalk walk = QueryWalk::over(in, deal.visitors + tile.first_visitor, tile.n_visitors, row, keys, kv_head * in.group);
    barrier_wait(&shared.item_free, tiles.parity_before());
    if (lane == 0) {
      shared.items[tiles.step % 2] = {row, keys, column};
      const int groups = (keys + kGroupRows - 1) / kGroupRows;
      barrier_expect(&shared.item_there, 2 * groups * tile_bytes(kGroupRows, kD));
      for (int group_row = 0; group_row < keys; group_row += kGroupRows) {
        copy_rows<kGradientRows, kD>(memory + M::k, group_row, maps.k, row + group_row, column, &shared.item_there);
        copy_rows<kGradientRows, kD>(memory + M::v, group_row, maps.v, row + group_row, column, &shared.item_there);
      }
    }
    for (bool more = true; more; ++ring.step) {
      const QueryBlock block = walk.next(in);
      const int place = ring.place();
      SharedBarrier* const there = &shared.there[place];
      barrier_wait(&shared.free[place], ring.parity_before());
      if (lane == 0) shared.blocks[place] = block;
      more = block.queries > 0;
      if (!more) {
        if (lane == 0) barrier_arrive(there), barrier_arrive(there);
        continue;
      }
      const BlockTiles<kD> tiles_of_block{memory + M::q + place * M::block_bytes, memory + M::dout + place * M::block_bytes};
      SharedBarrier* const copied = block.queries == kQueryBlock ? there : &shared.landed;
      if (lane == 0) tiles_of_block.copy(maps.q, maps.dout, block.row, block.head * kD, copied);
      RLHI_UNROLL
      for (int i = lane; i < kQueryBlock; i += 32) {  // a query beyond the block is a row of zeros throughout: it adds nothing
        const int64_t from = static_cast<int64_t>(block.row + i) * in.n_heads + block.head;
        const bool is_there = i < block.queries;
        store_words(shared.row_values[place][i], Words2{{as_bits(is_there ? g.lse_log2[from] : 0.0f), as_bits(is_there ? g.delta[from] : 0.0f)}});
      }
      if (block.queries < kQueryBlock) {
        barrier_wait(&shared.landed, landed++ % 2);
        tiles_of_block.clear(block.queries, there);
      }
      warp_arrive(there);
    }
  }
}

template <int kD>
RLHI_DEVICE void compute(const AttentionInputs& in, const Gradients& g, const KeyDeal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  using P = Products<true>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const GroupPlace own(true);
  const float scale_log2 = in.scale * kLog2e;
  Ring<M::stages> ring;
  Ring<1> tiles;
  for (int at; (at = item_at(tiles.step)) < deal.items; ++tiles.step) {
    barrier_wait(&shared.item_there, tiles.parity());
    const KeyItem& item = shared.items[tiles.step % 2];
    float dk[kD / 8][4] = {}, dv[kD / 8][4] = {};
    for (bool more = true; more; ++ring.step) {
      const int place = ring.place();
      barrier_wait(&shared.there[place], ring.parity());
      const QueryBlock& block = shared.blocks[place];
      more = block.queries > 0;
      const KeyBlock group_keys{0, block.key_position + own.group_row, least(item.keys - own.group_row, kGroupRows)};
      const QueryRange range{block.position, block.position + block.queries - 1};
      if (!more || group_keys.keys <= 0 || !sees_some(range, group_keys, in.window)) {  // a warpgroup alike
        warp_arrive(&shared.free[place]);
        continue;
      }
      unsigned char *const q = memory + M::q + place * M::block_bytes, *const dout = memory + M::dout + place * M::block_bytes;
      const float* const columns = shared.row_values[place][thread_index() % 4 * 2];  // this thread's queries
      float s[8][4], ds[8][4];
      P::begin(s);
      P::template scores<kD, kGradientRows, kQueryBlock>(s, memory + M::k, own.group_row, q);
      P::commit();
      P::begin(ds);
      P::template scores<kD, kGradientRows, kQueryBlock>(ds, memory + M::v, own.group_row, dout);
      P::commit();
      const bool hides = block.first_key > own.group_row || block.end_key < own.group_row + kGroupRows || !sees_all(range, group_keys, in.window);
      P::template wait<1>();
      P::end(s);
      if (hides) mask_transposed(s, block, 0, own.row, in.window);
      RLHI_UNROLL
      for (int n = 0; n < 8; ++n) {
        const Words4 two = load_words<Words4>(columns + n * 16);  // lse and delta of one query, then of the next
        RLHI_UNROLL
        for (int j = 0; j < 4; ++j) s[n][j] = exp2_fast(fused_multiply_add(s[n][j], scale_log2, -as_float(two.w[j % 2 * 2])));
      }
      uint32_t weights[4][4], dweights[4][4];
      RLHI_UNROLL
      for (int k = 0; k < 4; ++k) pack_scores(weights[k], s, k);
      P::begin(dv);
      for_panels<kD>([&](auto panel) {
        constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
        P::template weighted<kQueryBlock>(fragments_at<kFragments>(dv, kPanel * 8), weights, dout, kPanel, true);
      });
      P::commit();
      P::template wait<1>();
      P::end(ds);
      RLHI_UNROLL
      for (int n = 0; n < 8; ++n) {
        const Words4 two = load_words<Words4>(columns + n * 16);
        RLHI_UNROLL
        for (int j = 0; j < 4; ++j) ds[n][j] = s[n][j] * (ds[n][j] - as_float(two.w[j % 2 * 2 + 1]));
      }
      RLHI_UNROLL
      for (int k = 0; k < 4; ++k) pack_scores(dweights[k], ds, k);
      P::begin(dk);
      for_panels<kD>([&](auto panel) {
        constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
        P::template weighted<kQueryBlock>(fragments_at<kFragments>(dk, kPanel * 8), dweights, q, kPanel, true);
      });
      P::commit();
      P::template wait<0>();
      P::end(dv);
      P::end(dk);
      warp_arrive(&shared.free[place]);
    }
    warp_arrive(&shared.item_free);
    const bool row0 = own.row < item.keys, row1 = own.row + 8 < item.keys;
    store_fragments(g.dk, g.dk_stride, item.row + own.row, row0, row1, item.column, dk, in.scale);
    store_fragments(g.dv, g.dv_stride, item.row + own.row, row0, row1, item.column, dv, 1.0f);
  }
}
#endif

template <int kD>
RLHI_KERNEL((RLHI_HAS_GROUP_PRODUCTS ? kGradientThreads : 32), 1)
void group_dkv_kernel(AttentionInputs in, Gradients g, RLHI_GRID_CONSTANT const GradientMaps maps, KeyDeal deal) {
#if RLHI_HAS_GROUP_PRODUCTS
  using M = Memory<kD>;
  unsigned char* const memory = shared_memory();
  begin_barriers(*reinterpret_cast<typename M::Shared*>(memory + M::shared), 2);  // rows of q and dout, and their lse and delta
  in_roles<kGradientGroups, kComputeRegisters, kBringRegisters>([&] { compute<kD>(in, g, deal, memory); }, [&] { bring<kD>(in, g, maps, deal, memory); });
#endif
}

}  // namespace

void group_dkv(const Launch& at, const AttentionBackwardArgs& b, const Gradients& g, const GradientMaps& maps, const BackwardTiles& tiles) {
  const AttentionArgs& a = b.forward;
  const int64_t items = tiles.n_key_tiles * a.n_kv_heads;
  const KeyDeal deal{tiles.key_tiles, tiles.visitors, static_cast<int>(items), a.n_kv_heads};
  with_head_dim(a.head_dim, [&](auto dim) {
    constexpr int kD = decltype(dim)::value;
    static_assert(Memory<kD>::bytes <= 227 << 10, "the shared memory of sm_90");
    launch_dealt(at, items, kGradientThreads, Memory<kD>::bytes, group_dkv_kernel<kD>, inputs_of(a), g, maps, deal);
  });
}

}  // namespace rlhi::ops::cuda
