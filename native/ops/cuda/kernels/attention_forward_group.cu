// A warp brings keys and values (TMA), three warpgroups compute. Two blocks of kKeyBlock keys are taken at a time, their scores in one
// product, but each block gives its (maximum, sum, weighted values) by itself and they are folded in order. A multiprocessor
// goes from tile to tile: while its warpgroups finish one, the queries and first keys of the next arrive.
//
// The tensor cores are shared: were all warpgroups at their scores, then all at their softmax, they would idle half of the
// time. So scores are made in turns: the next warpgroup's once this one's are there (Shah et al., arXiv:2407.08608).
#include "ops/cuda/kernels/attention_forward_group.cuh"

#include <cstdlib>

#include "ops/cuda/kernels/attention_products.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kPair = 2 * kKeyBlock;          // keys of a step
constexpr int kGroups = kForwardGroups, kRows = kGroups * kGroupRows, kThreads = (kGroups + 1) * kGroupThreads;  // the last group brings

// What the warpgroups know of a tile.
struct TileItem {
  int row, rows, position, head;              // row of q; rows of the tile; of its first row
  StepRange steps[kGroups];                   // of each warpgroup
};

template <int kD>
struct Memory {
  static constexpr int stages = kD == 64 ? 4 : 2, key_bytes = tile_bytes(kPair, kD), query_bytes = tile_bytes(kRows, kD);
  static constexpr int q = 0, k = q + 2 * query_bytes, v = k + stages * key_bytes, shared = v + stages * key_bytes;
  struct Shared {
    SharedBarrier queries_there[2], queries_free[2], keys_there[stages], keys_free[stages], values_there[stages], values_free[stages];
    SharedBarrier landed;                     // values that end within a box, before the rest is cleared
    SharedBarrier turn[kGroups];
    KeyBlock pairs[stages];
    TileItem items[2];
  };
  static constexpr int bytes = shared + static_cast<int>(sizeof(Shared));
};

struct GroupOutputs {
  void* out;
  int64_t out_stride;
  float* lse;                                 // may be nullptr
  int64_t lse_stride;
};
struct GroupMaps {
  TensorMap q, k, v;
};

// Items, tiles times heads with heads fastest, come most work first; every other round is dealt in reverse order.
struct Deal {
  const QueryTile* tiles;
  int items, turns;
};

#if RLHI_HAS_GROUP_PRODUCTS
RLHI_DEVICE int item_at(int round) { return round * grid_size() + (round % 2 == 0 ? block_index() : grid_size() - 1 - block_index()); }

// Step n of a ring of kPlaces: its place, and the parity that a barrier's phase of this step has.
template <int kPlaces>
struct Ring {
  int step = 0;
  RLHI_DEVICE int place() const { return step % kPlaces; }
  RLHI_DEVICE int parity() const { return step / kPlaces % 2; }
  RLHI_DEVICE int parity_before() const { return parity() ^ 1; }
};

RLHI_DEVICE void warp_arrive(SharedBarrier* b) {
  sync_warp();
  if (thread_index() % 32 == 0) barrier_arrive(b);
}

template <int kD>
RLHI_DEVICE void bring(const AttentionInputs& in, const GroupMaps& maps, const Deal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const int lane = thread_index() % 32;
  Ring<M::stages> ring;
  Ring<2> tile_ring;
  int landed = 0;
  for (int at; (at = item_at(tile_ring.step)) < deal.items; ++tile_ring.step) {
    const int head = at % in.n_heads, column = head / in.group * kD, half = tile_ring.place();
    const QueryTile tile = deal.tiles[at / in.n_heads];
    const QuerySegment segment = in.segments[tile.segment];
    const int rows = least(kRows, segment.length - tile.first), position = segment.position + tile.first;
    const QueryRange range{position, position + rows - 1};
    barrier_wait(&shared.queries_free[half], tile_ring.parity_before());
    TileItem& item = shared.items[half];
    if (lane < kGroups) {
      const int first = lane * kGroupRows;
      StepRange steps = steps_of<kPair>(in, segment, range, {position + first, position + least(rows, first + kGroupRows) - 1});
      if (first >= rows) steps.first = steps.end = 0;
      item.steps[lane] = steps;
    }
    if (lane == 0) item.row = segment.row + tile.first, item.rows = rows, item.position = position, item.head = head;
    sync_warp();
    if (lane == 0) {
      const int groups = static_cast<int>((rows + kGroupRows - 1) / kGroupRows);
      barrier_expect(&shared.queries_there[half], groups * tile_bytes(kGroupRows, kD));
      for (int g = 0; g < groups; ++g) {
        for (int panel = 0; panel < panels_of(kD); ++panel) {
          copy_box(memory + M::q + half * M::query_bytes + (panel * kRows + g * kGroupRows) * 128, maps.q, head * kD + panel * 64,
                   segment.row + tile.first + g * kGroupRows, &shared.queries_there[half]);
        }
      }
    }
    auto walk = KeyWalk<kPair>::over(segment, range);
    for (KeyBlock pair = walk.next(in); pair.keys > 0; pair = walk.next(in), ++ring.step) {
      const int place = ring.place();
      const auto copy = [&](const TensorMap& map, int first, SharedBarrier* there) {
        barrier_expect(there, M::key_bytes);
        for (int panel = 0; panel < panels_of(kD); ++panel)
          copy_box(memory + first + place * M::key_bytes + panel * kPair * 128, map, column + panel * 64, pair.row, there);
      };
      barrier_wait(&shared.keys_free[place], ring.parity_before());
      if (lane == 0) {
        shared.pairs[place] = pair;
        copy(maps.k, M::k, &shared.keys_there[place]);
      }
      barrier_wait(&shared.values_free[place], ring.parity_before());
      if (pair.keys == kPair) {
        if (lane == 0) copy(maps.v, M::v, &shared.values_there[place]);
        continue;
      }
      // A weight of 0 hides no value that is not finite: rows beyond the span, which are others', become zero.
      if (lane == 0) copy(maps.v, M::v, &shared.landed);
      barrier_wait(&shared.landed, landed++ % 2);
      const int units = (kPair - pair.keys) * 8;
      for (int panel = 0; panel < panels_of(kD); ++panel) {
        unsigned char* const rest = memory + M::v + place * M::key_bytes + (panel * kPair + pair.keys) * 128;
        for (int i = lane; i < units; i += 32) store_words(rest + i * 16, Words4{{0, 0, 0, 0}});
      }
      shared_fence();
      warp_arrive(&shared.values_there[place]);
    }
  }
}

template <int kD>
RLHI_DEVICE void compute(const AttentionInputs& in, const GroupOutputs& to, const Deal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  using P = Products<true>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const int group = static_cast<int>(warp_uniform(static_cast<uint32_t>(thread_index() / kGroupThreads))), group_row = group * kGroupRows;
  const int row = group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4;  // of the tile; the other is 8 below
  const float scale_log2 = in.scale * kLog2e;
  Ring<M::stages> ring;
  Ring<2> tile_ring;
  const auto take_turn = [&] {
    if (deal.turns) barrier_wait(&shared.turn[group], (ring.step + (group == 0 ? 1 : 0)) % 2);
  };
  const auto pass_turn = [&] {
    if (deal.turns) warp_arrive(&shared.turn[group == kGroups - 1 ? 0 : group + 1]);
  };
  const auto pass = [&](int steps) {          // steps in which this warpgroup has nothing to do
    for (int i = 0; i < steps; ++i, ++ring.step) {
      const int place = ring.place();
      barrier_wait(&shared.keys_there[place], ring.parity());
      take_turn();
      pass_turn();
      warp_arrive(&shared.keys_free[place]);
      barrier_wait(&shared.values_there[place], ring.parity());
      warp_arrive(&shared.values_free[place]);
    }
  };
  for (int at; (at = item_at(tile_ring.step)) < deal.items; ++tile_ring.step) {
    const int half = tile_ring.place();
    barrier_wait(&shared.queries_there[half], tile_ring.parity());
    const TileItem& item = shared.items[half];
    const int steps = item.steps[group].end - item.steps[group].first, position = item.position;
    const QueryRange range{position + group_row, position + least(item.rows, group_row + kGroupRows) - 1};
    float out[kD / 8][4] = {};
    RowState state[2] = {{negative_infinity(), 0}, {negative_infinity(), 0}};
    pass(item.steps[group].first);
    for (int i = 0; i < steps; ++i, ++ring.step) {
      const int place = ring.place();
      barrier_wait(&shared.keys_there[place], ring.parity());
      const KeyBlock pair = shared.pairs[place];
      take_turn();
      float s[16][4];
      P::begin(s);
      P::template scores<kD, kRows, kPair>(s, memory + M::q + half * M::query_bytes, group_row, memory + M::k + place * M::key_bytes);
      P::commit();
      if (deal.turns == 1) pass_turn();
      P::template wait<0>();
      P::end(s);
      if (deal.turns == 2) pass_turn();
      warp_arrive(&shared.keys_free[place]);
      RLHI_UNROLL
      for (int b = 0; b < 2; ++b) {
        const KeyBlock block{0, pair.position + b * kKeyBlock, least(kKeyBlock, pair.keys - b * kKeyBlock)};
        if (b == 1 && (block.keys <= 0 || block.position > range.newest)) continue;  // no row sees it
        float(&scores)[8][4] = fragments_at<8>(s, b * 8);
        if (!sees_all(range, block, in.window)) hide_unseen(scores, block, position + row, in.window);
        RowState part[2];
        block_softmax(scores, scale_log2, part);
        uint32_t weights[4][4];
        RLHI_UNROLL
        for (int k = 0; k < 4; ++k) pack_scores(weights[k], scores, k);
        const FoldFactors f0 = fold(state[0], part[0]), f1 = fold(state[1], part[1]);
        if (b == 0) barrier_wait(&shared.values_there[place], ring.parity());
        unsigned char* const v = memory + M::v + place * M::key_bytes + b * kKeyBlock * 128;
        for_panels<kD>([&](auto panel) {
          constexpr int kPanel = decltype(panel)::value, kFragments = kPanelFragments<kD, kPanel>;
          float sum[kFragments][4];
          P::begin(sum);
          P::template weighted<kPair>(sum, weights, v, kPanel, false);
          P::commit();
          P::template wait<0>();
          P::end(sum);
          fold_values(fragments_at<kFragments>(out, kPanel * 8), sum, f0, f1);
        });
      }
      warp_arrive(&shared.values_free[place]);
    }
    pass(item.steps[group].all - item.steps[group].end);

    RLHI_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (row + 8 * i >= item.rows) continue;
      const int64_t to_row = item.row + row + 8 * i;
      const float factor = state[i].sum > 0 ? 1.0f / state[i].sum : 1.0f;
      auto* values = static_cast<uint16_t*>(to.out) + to_row * to.out_stride + item.head * kD + thread_index() % 4 * 2;
      RLHI_UNROLL
      for (int n = 0; n < kD / 8; ++n) store_words(values + n * 8, pack_bf16(out[n][2 * i] * factor, out[n][2 * i + 1] * factor));
      if (to.lse && thread_index() % 4 == 0) to.lse[to_row * to.lse_stride + item.head] = log_sum(state[i]);
    }
    warp_arrive(&shared.queries_free[half]);
  }
}
#endif

template <int kD>
RLHI_KERNEL(RLHI_HAS_GROUP_PRODUCTS ? kThreads : 32, 1)
void group_forward_kernel(AttentionInputs in, RLHI_GRID_CONSTANT const GroupMaps maps, GroupOutputs to, Deal deal) {
#if RLHI_HAS_GROUP_PRODUCTS
  using M = Memory<kD>;
  unsigned char* const memory = shared_memory();
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  if (thread_index() == 0) {
    constexpr int kGroupWarps = kGroupThreads / 32, kWarps = kGroups * kGroupWarps;
    for (int i = 0; i < 2; ++i) barrier_init(&shared.queries_there[i], 1), barrier_init(&shared.queries_free[i], kWarps);
    for (int i = 0; i < M::stages; ++i) {
      barrier_init(&shared.keys_there[i], 1), barrier_init(&shared.keys_free[i], kWarps);
      barrier_init(&shared.values_there[i], 1), barrier_init(&shared.values_free[i], kWarps);
    }
    barrier_init(&shared.landed, 1);
    for (int g = 0; g < kGroups; ++g) barrier_init(&shared.turn[g], kGroupWarps);
    shared_fence();
  }
  sync_threads();
  if (thread_index() >= kGroups * kGroupThreads) {
    give_registers<32>();
    if (thread_index() < kGroups * kGroupThreads + 32) bring<kD>(in, maps, deal, memory);
  } else {
    take_registers<160>();
    compute<kD>(in, to, deal, memory);
  }
#endif
}

template <int kD>
void launch_group(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  static const int turns = std::getenv("RLHI_ATTENTION_VARIANT") ? std::atoi(std::getenv("RLHI_ATTENTION_VARIANT")) : 2;
  const int64_t items = n_tiles * a.n_heads;
  check(items < (int64_t{1} << 30), ErrorCode::invalid_argument, "attention: ", n_tiles, " tiles are too many");
  const GroupMaps maps{tensor_map(a.q, kGroupRows), tensor_map(a.k, kPair), tensor_map(a.v, kPair)};
  const GroupOutputs to{a.out.data, a.out.row_stride, static_cast<float*>(a.lse.data), a.lse.row_stride};
  launch(at, items < at.multiprocessors ? items : at.multiprocessors, kThreads, Memory<kD>::bytes, group_forward_kernel<kD>, inputs_of(a), maps, to,
         Deal{tiles, static_cast<int>(items), turns});
}
static_assert(Memory<128>::bytes <= 227 << 10 && Memory<64>::bytes <= 227 << 10, "the shared memory of sm_90");

}  // namespace

bool has_group_attention() {
#ifdef __CUDACC__
  return compiled_for(group_forward_kernel<64>, kThreads);
#else
  return emulate::options.group_products;
#endif
}

void group_attention(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  if (a.head_dim == 64) return launch_group<64>(at, a, tiles, n_tiles);
  if (a.head_dim == 96) return launch_group<96>(at, a, tiles, n_tiles);
  launch_group<128>(at, a, tiles, n_tiles);
}

}  // namespace rlhi::ops::cuda
