// A warp brings keys and values (TMA), three warpgroups compute. Two blocks of kKeyBlock keys are taken at a time, their scores in one
// product, but each block gives its (maximum, sum, weighted values) by itself and they are folded in order. A multiprocessor
// goes from tile to tile: while its warpgroups finish one, the queries and first keys of the next arrive.
//
// Measured on an H100 and left out: scores made by the warpgroups in turns (Shah et al., arXiv:2407.08608), within 1 % either way; two
// warpgroups of 240 registers that make the next scores under this pair's weighted values, 6 to 15 % slower.
#include "ops/cuda/kernels/attention_forward_group.cuh"

#include "ops/cuda/kernels/attention_group_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

#if RLHI_HAS_GROUP_PRODUCTS
// Block b of a pair, as far as masks ask.
RLHI_DEVICE KeyBlock block_of(const KeyBlock& pair, int b) {
  return {0, pair.position + b * kKeyBlock, least(kKeyBlock, pair.keys - b * kKeyBlock)};
}

template <int kD>
RLHI_DEVICE void compute(const AttentionInputs& in, const GroupOutputs& to, const Deal& deal, unsigned char* memory) {
  using P = Products<true>;
  Worker<kD> own(deal, memory);
  auto& shared = own.shared;
  const float scale_log2 = in.scale * kLog2e;
  for (int at; (at = item_at(own.tile_ring.step)) < deal.items; ++own.tile_ring.step) {
    const int half = own.tile_ring.place();
    barrier_wait(&shared.queries_there[half], own.tile_ring.parity());
    const TileItem<kGroups>& item = shared.items[half];
    const int steps = item.steps[own.group].end - item.steps[own.group].first, position = item.position + own.row;
    const QueryRange range = own.queries(item);
    float out[kD / 8][4] = {};
    RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
    own.pass(item.steps[own.group].first);
    for (int i = 0; i < steps; ++i, ++own.ring.step) {
      const int place = own.ring.place();
      barrier_wait(&shared.keys_there[place], own.ring.parity());
      const KeyBlock pair = shared.pairs[place];
      float s[16][4];
      P::begin(s);
      own.scores(s, place);
      P::commit();
      P::template wait<0>();
      P::end(s);
      warp_arrive(&shared.keys_free[place]);
      RLHI_UNROLL
      for (int b = 0; b < 2; ++b) {
        const KeyBlock block = block_of(pair, b);
        if (b == 1 && (block.keys <= 0 || block.position > range.newest)) continue;  // no row sees it
        float(&scores)[8][4] = fragments_at<8>(s, b * 8);
        if (!sees_all(range, block, in.window)) hide_unseen(scores, block, position, in.window);
        RowState part[2];
        block_softmax(scores, scale_log2, part);
        uint32_t weights[4][4];
        RLHI_UNROLL
        for (int k = 0; k < 4; ++k) pack_scores(weights[k], scores, k);
        const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
        if (b == 0) barrier_wait(&shared.values_there[place], own.ring.parity());
        for_panels<kD>([&](auto panel) {
          constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
          float sum[kFragments][4];
          own.weigh(sum, weights, place, b, kPanel);
          P::template wait<0>();
          P::end(sum);
          fold_values(fragments_at<kFragments>(out, kPanel * 8), sum, f0, f1);
        });
      }
      warp_arrive(&shared.values_free[place]);
    }
    own.pass(item.steps[own.group].all - item.steps[own.group].end);
    own.store(to, item, out, state);
    warp_arrive(&shared.queries_free[half]);
  }
}
#endif

// Registers of a thread that computes and of one that brings: those of a kernel of four warpgroups, dealt anew.
constexpr int kComputeRegisters = 160, kBringRegisters = 32;

template <int kD>
RLHI_KERNEL((RLHI_HAS_GROUP_PRODUCTS ? Memory<kD>::threads : 32), 1)
void group_forward_kernel(AttentionInputs in, RLHI_GRID_CONSTANT const GroupMaps maps, GroupOutputs to, Deal deal) {
#if RLHI_HAS_GROUP_PRODUCTS
  using M = Memory<kD>;
  unsigned char* const memory = shared_memory();
  begin_barriers(*reinterpret_cast<typename M::Shared*>(memory + M::shared));
  in_roles<kGroups, kComputeRegisters, kBringRegisters>([&] { compute<kD>(in, to, deal, memory); }, [&] { bring<kD>(in, maps, deal, memory); });
#endif
}

}  // namespace

int group_attention_rows(const AttentionArgs& a) {
#ifdef __CUDACC__
  static const bool there = compiled_for(group_forward_kernel<64>, Memory<64>::threads, kGroupThreads * (kGroups * kComputeRegisters + kBringRegisters));
#else
  const bool there = emulate::options.group_products;
#endif
  return there ? kGroups / heads_at_once<kGroups>(a) * kGroupRows : 0;
}

void group_attention(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  const int heads = heads_at_once<kGroups>(a);
  const int64_t items = n_tiles * (a.n_heads / heads);
  const GroupMaps maps{tensor_map(a.q, kGroupRows), tensor_map(a.k, kPair), tensor_map(a.v, kPair)};
  const GroupOutputs to{a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride};
  with_head_dim(a.head_dim, [&](auto dim) {
    constexpr int kD = decltype(dim)::value;
    static_assert(Memory<kD>::bytes <= 227 << 10, "the shared memory of sm_90");
    launch_dealt(at, items, Memory<kD>::threads, Memory<kD>::bytes, group_forward_kernel<kD>, inputs_of(a), maps, to, Deal{tiles, static_cast<int>(items), heads});
  });
}

}  // namespace rlhi::ops::cuda
