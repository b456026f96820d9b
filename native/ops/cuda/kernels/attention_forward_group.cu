// A warp brings keys and values (TMA), three warpgroups compute. Two blocks of kKeyBlock keys are taken at a time, their scores in one
// product, but each block gives its (maximum, sum, weighted values) by itself and they are folded in order. A multiprocessor
// goes from tile to tile: while its warpgroups finish one, the queries and first keys of the next arrive.
//
// The tensor cores are shared: were all warpgroups at their scores, then all at their softmax, they would idle half of the
// time. So scores are made in turns: the next warpgroup's once this one's are there (Shah et al., arXiv:2407.08608).
#include "ops/cuda/kernels/attention_forward_group.cuh"

#include <cstdlib>

#include "ops/cuda/kernels/attention_group_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

#if RLHI_HAS_GROUP_PRODUCTS
// Block b of a pair, as far as masks ask.
RLHI_DEVICE KeyBlock block_of(const KeyBlock& pair, int b) {
  return {0, pair.position + b * kKeyBlock, least(kKeyBlock, pair.keys - b * kKeyBlock)};
}
RLHI_DEVICE QueryRange queries_of(const TileItem& item, int group_row) {
  return {item.position + group_row, item.position + least(item.rows, group_row + kGroupRows) - 1};
}

template <int kD, int kGroups>
RLHI_DEVICE void compute(const AttentionInputs& in, const GroupOutputs& to, const Deal& deal, unsigned char* memory) {
  using P = Products<true>;
  Worker<kD, kGroups> own(deal, memory);
  auto& shared = own.shared;
  const float scale_log2 = in.scale * kLog2e;
  for (int at; (at = item_at(own.tile_ring.step)) < deal.items; ++own.tile_ring.step) {
    const int half = own.tile_ring.place();
    barrier_wait(&shared.queries_there[half], own.tile_ring.parity());
    const TileItem& item = shared.items[half];
    const int steps = item.steps[own.group].end - item.steps[own.group].first, position = item.position + own.row;
    const QueryRange range = queries_of(item, own.group_row);
    float out[kD / 8][4] = {};
    RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
    own.pass(item.steps[own.group].first);
    for (int i = 0; i < steps; ++i, ++own.ring.step) {
      const int place = own.ring.place();
      barrier_wait(&shared.keys_there[place], own.ring.parity());
      const KeyBlock pair = shared.pairs[place];
      own.take_turn(own.ring);
      float s[16][4];
      P::begin(s);
      own.scores(s, place);
      P::commit();
      own.pass_turn(1);
      P::template wait<0>();
      P::end(s);
      own.pass_turn(2);
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

// A block's weights, and the factors of its fold.
struct Weighed {
  uint32_t weights[4][4];
  FoldFactors f0, f1;
};

// The same with more registers: while a pair's weighted values are summed, the next pair's scores are made, and become weights.
template <int kD, int kGroups>
RLHI_DEVICE void compute_ahead(const AttentionInputs& in, const GroupOutputs& to, const Deal& deal, unsigned char* memory) {
  using P = Products<true>;
  constexpr int kFirst = kPanelFragments<kD, 0>, kPanels = panels_of(kD), kSecond = kPanels == 2 ? kPanelFragments<kD, kPanels - 1> : kFirst;
  Worker<kD, kGroups> own(deal, memory);
  auto& shared = own.shared;
  const float scale_log2 = in.scale * kLog2e;
  for (int at; (at = item_at(own.tile_ring.step)) < deal.items; ++own.tile_ring.step) {
    const int half = own.tile_ring.place();
    barrier_wait(&shared.queries_there[half], own.tile_ring.parity());
    const TileItem& item = shared.items[half];
    const int steps = item.steps[own.group].end - item.steps[own.group].first, position = item.position + own.row;
    const QueryRange range = queries_of(item, own.group_row);
    float out[kD / 8][4] = {};
    RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
    own.pass(item.steps[own.group].first);
    Weighed weighed[2];
    const auto weigh_block = [&](float (&s)[16][4], const KeyBlock& pair, int b, RowState (&part)[2]) {
      float(&scores)[8][4] = fragments_at<8>(s, b * 8);
      const KeyBlock block = block_of(pair, b);
      if (!sees_all(range, block, in.window)) hide_unseen(scores, block, position, in.window);
      block_softmax(scores, scale_log2, part);
    };
    const auto keep_block = [&](const float (&s)[16][4], int b, const RowState (&part)[2]) {
      const float(&scores)[8][4] = reinterpret_cast<const float(&)[8][4]>(s[b * 8]);
      RLHI_UNROLL
      for (int k = 0; k < 4; ++k) pack_scores(weighed[b].weights[k], scores, k);
      weighed[b].f0 = fold(state[0], part[0]), weighed[b].f1 = fold(state[1], part[1]);
    };
    const auto fold_first = [&](const float (&sum)[kFirst][4], int b) {
      fold_values(fragments_at<kFirst>(out, 0), sum, weighed[b].f0, weighed[b].f1);
    };
    const auto fold_second = [&](const float (&sum)[kSecond][4], int b) {
      fold_values(fragments_at<kSecond>(out, (kPanels - 1) * 8), sum, weighed[b].f0, weighed[b].f1);
    };
    bool second = false;                      // whether some row sees the pair's second block
    const auto first_scores = [&] {
      const int place = own.ring.place();
      barrier_wait(&shared.keys_there[place], own.ring.parity());
      const KeyBlock pair = shared.pairs[place];
      second = pair.keys > kKeyBlock && pair.position + kKeyBlock <= range.newest;
      own.take_turn(own.ring);
      float s[16][4];
      P::begin(s);
      own.scores(s, place);
      P::commit();
      own.pass_turn(1);
      P::template wait<0>();
      P::end(s);
      own.pass_turn(2);
      warp_arrive(&shared.keys_free[place]);
      RLHI_UNROLL
      for (int b = 0; b < 2; ++b) {
        RowState part[2];
        weigh_block(s, pair, b, part);
        keep_block(s, b, part);
      }
    };
    if (steps > 0) first_scores();
    for (int i = 0; i + 1 < steps; ++i, ++own.ring.step) {
      const auto next = own.ring.next();
      const int place = own.ring.place(), next_place = next.place();
      barrier_wait(&shared.values_there[place], own.ring.parity());
      barrier_wait(&shared.keys_there[next_place], next.parity());
      const KeyBlock pair = shared.pairs[next_place];
      second = pair.keys > kKeyBlock && pair.position + kKeyBlock <= range.newest;
      own.take_turn(next);
      float s[16][4];
      RowState part[2];
      {
        float sum[kFirst][4];
        own.weigh(sum, weighed[0].weights, place, 0, 0);
        P::begin(s);
        own.scores(s, next_place);
        P::commit();
        own.pass_turn(1);
        P::template wait<1>();
        P::end(sum);
        fold_first(sum, 0);
      }
      const auto scores_there = [&] {
        P::template wait<1>();
        P::end(s);
        own.pass_turn(2);
        warp_arrive(&shared.keys_free[next_place]);
      };
      const auto weigh_first = [&](int b, const auto& meanwhile) {
        float sum[kFirst][4];
        own.weigh(sum, weighed[b].weights, place, b, 0);
        meanwhile();
        P::template wait<0>();
        P::end(sum);
        fold_first(sum, b);
      };
      const auto weigh_second = [&](int b, const auto& meanwhile) {
        float sum[kSecond][4];
        own.weigh(sum, weighed[b].weights, place, b, 1);
        meanwhile();
        P::template wait<0>();
        P::end(sum);
        fold_second(sum, b);
      };
      if constexpr (kPanels == 2) {
        weigh_second(0, [&] {
          scores_there();
          weigh_block(s, pair, 0, part);
        });
        weigh_first(1, [&] {
          keep_block(s, 0, part);
          weigh_block(s, pair, 1, part);
        });
        weigh_second(1, [] {});
        keep_block(s, 1, part);
      } else {
        weigh_first(1, [&] {
          scores_there();
          weigh_block(s, pair, 0, part);
        });
        keep_block(s, 0, part);
        weigh_block(s, pair, 1, part);
        keep_block(s, 1, part);
      }
      warp_arrive(&shared.values_free[place]);
    }
    if (steps > 0) {
      const int place = own.ring.place();
      barrier_wait(&shared.values_there[place], own.ring.parity());
      RLHI_UNROLL
      for (int b = 0; b < 2; ++b) {
        if (b == 1 && !second) continue;
        for_panels<kD>([&](auto panel) {
          constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
          float sum[kFragments][4];
          own.weigh(sum, weighed[b].weights, place, b, kPanel);
          P::template wait<0>();
          P::end(sum);
          fold_values(fragments_at<kFragments>(out, kPanel * 8), sum, weighed[b].f0, weighed[b].f1);
        });
      }
      warp_arrive(&shared.values_free[place]);
      ++own.ring.step;
    }
    own.pass(item.steps[own.group].all - item.steps[own.group].end);
    own.store(to, item, out, state);
    warp_arrive(&shared.queries_free[half]);
  }
}
#endif

// Registers of a thread that computes and of one that brings: those of a kernel of three or four warpgroups, dealt anew.
template <int kD, int kGroups>
RLHI_KERNEL((RLHI_HAS_GROUP_PRODUCTS ? Memory<kD, kGroups>::threads : 32), 1)
void group_forward_kernel(AttentionInputs in, RLHI_GRID_CONSTANT const GroupMaps maps, GroupOutputs to, Deal deal) {
#if RLHI_HAS_GROUP_PRODUCTS
  using M = Memory<kD, kGroups>;
  unsigned char* const memory = shared_memory();
  begin_barriers(*reinterpret_cast<typename M::Shared*>(memory + M::shared), kGroups);
  if (thread_index() >= kGroups * kGroupThreads) {
    give_registers<kGroups == 3 ? 32 : 24>();
    if (thread_index() < kGroups * kGroupThreads + 32) bring<kD, kGroups>(in, maps, deal, memory);
  } else if constexpr (kGroups == 3) {
    take_registers<160>();
    compute<kD, kGroups>(in, to, deal, memory);
  } else {
    take_registers<240>();
    compute_ahead<kD, kGroups>(in, to, deal, memory);
  }
#endif
}

int variant() {
  static const int chosen = std::getenv("RLHI_ATTENTION_VARIANT") ? std::atoi(std::getenv("RLHI_ATTENTION_VARIANT")) : 2;
  return chosen;
}

int groups() { return variant() % 10 < 3 ? 3 : 2; }
// Heads that share keys, one a warpgroup: so their steps are the same, and a short segment leaves no warpgroup without rows.
int heads_at_once(const AttentionArgs& a) { return variant() < 10 && a.n_heads / a.n_kv_heads % groups() == 0 ? groups() : 1; }

template <int kD, int kGroups>
void launch_group(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  using M = Memory<kD, kGroups>;
  static_assert(M::bytes <= 227 << 10, "the shared memory of sm_90");
  const int heads = heads_at_once(a);
  const int64_t items = n_tiles * (a.n_heads / heads);
  check(items < (int64_t{1} << 30), ErrorCode::invalid_argument, "attention: ", n_tiles, " tiles are too many");
  const GroupMaps maps{tensor_map(a.q, kGroupRows), tensor_map(a.k, kPair), tensor_map(a.v, kPair)};
  const GroupOutputs to{a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride};
  launch(at, items < at.multiprocessors ? items : at.multiprocessors, M::threads, static_cast<size_t>(M::bytes), group_forward_kernel<kD, kGroups>,
         inputs_of(a), maps, to, Deal{tiles, static_cast<int>(items), heads, variant() % 10 % 3});
}
template <int kGroups>
void launch_group(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  if (a.head_dim == 64) return launch_group<64, kGroups>(at, a, tiles, n_tiles);
  if (a.head_dim == 96) return launch_group<96, kGroups>(at, a, tiles, n_tiles);
  launch_group<128, kGroups>(at, a, tiles, n_tiles);
}

}  // namespace

int group_attention_rows(const AttentionArgs& a) {
#ifdef __CUDACC__
  static const bool there = compiled_for(group_forward_kernel<64, 3>, Memory<64, 3>::threads);
#else
  const bool there = emulate::options.group_products;
#endif
  return there ? groups() / heads_at_once(a) * kGroupRows : 0;
}

void group_attention(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  if (groups() == 3) launch_group<3>(at, a, tiles, n_tiles);
  else launch_group<2>(at, a, tiles, n_tiles);
}

}  // namespace rlhi::ops::cuda
