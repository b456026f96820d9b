// Attention's forward by warpgroup products: a tile's memory, its barriers, the warp that brings, and where a warpgroup stands.
#pragma once
#include "ops/cuda/kernels/attention_products.cuh"
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {

constexpr int kPair = 2 * kKeyBlock;          // keys of a step
constexpr int kGroups = 3;                    // warpgroups that compute

// What the warpgroups know of a tile. Each has 64 rows of its own: of one head, or the same rows each of another head.
struct TileItem {
  int row, rows, position, head;              // row of q; rows of the tile; of its first row; its first head
  StepRange steps[kGroups];               // of each warpgroup
};

template <int kD>
struct Memory {
  static constexpr int rows = kGroups * kGroupRows, threads = (kGroups + 1) * kGroupThreads;  // the last group brings
  static constexpr int stages = kD == 64 ? 4 : 2, key_bytes = tile_bytes(kPair, kD), query_bytes = tile_bytes(rows, kD);
  static constexpr int q = 0, k = q + 2 * query_bytes, v = k + stages * key_bytes, shared = v + stages * key_bytes;
  struct Shared {
    SharedBarrier queries_there[2], queries_free[2], keys_there[stages], keys_free[stages], values_there[stages], values_free[stages];
    SharedBarrier landed;                     // values that end within a box, before the rest is cleared
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
  int items, heads;                           // heads of an item: 1, or one a warpgroup
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
  constexpr int kRows = M::rows;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const int lane = thread_index() % 32;
  Ring<M::stages> ring;
  Ring<2> tile_ring;
  int landed = 0;
  for (int at; (at = item_at(tile_ring.step)) < deal.items; ++tile_ring.step) {
    const int parts = in.n_heads / deal.heads, head = at % parts * deal.heads, column = head / in.group * kD, half = tile_ring.place();
    const QueryTile tile = deal.tiles[at / parts];
    const QuerySegment segment = in.segments[tile.segment];
    const int rows = least(kRows / deal.heads, segment.length - tile.first), position = segment.position + tile.first;
    const QueryRange range{position, position + rows - 1};
    barrier_wait(&shared.queries_free[half], tile_ring.parity_before());
    TileItem& item = shared.items[half];
    if (lane < kGroups) {
      const int first = deal.heads == 1 ? lane * kGroupRows : 0;
      StepRange steps = steps_of<kPair>(in, segment, range, {position + first, position + least(rows, first + kGroupRows) - 1});
      if (first >= rows) steps.first = steps.end = 0;
      item.steps[lane] = steps;
    }
    if (lane == 0) item.row = segment.row + tile.first, item.rows = rows, item.position = position, item.head = head;
    sync_warp();
    if (lane == 0) {
      const int groups = deal.heads == 1 ? (rows + kGroupRows - 1) / kGroupRows : kGroups;
      barrier_expect(&shared.queries_there[half], groups * tile_bytes(kGroupRows, kD));
      for (int g = 0; g < groups; ++g) {
        for (int panel = 0; panel < panels_of(kD); ++panel) {
          const bool by_rows = deal.heads == 1;
          copy_box(memory + M::q + half * M::query_bytes + (panel * kRows + g * kGroupRows) * 128, maps.q, (by_rows ? head : head + g) * kD + panel * 64,
                   segment.row + tile.first + (by_rows ? g * kGroupRows : 0), &shared.queries_there[half]);
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

template <class Shared>
RLHI_DEVICE void begin_barriers(Shared& shared) {
  if (thread_index() == 0) {
    constexpr int warps = kGroups * kGroupThreads / 32;
    for (SharedBarrier& b : shared.queries_there) barrier_init(&b, 1);
    for (SharedBarrier& b : shared.queries_free) barrier_init(&b, warps);
    for (SharedBarrier& b : shared.keys_there) barrier_init(&b, 1);
    for (SharedBarrier& b : shared.keys_free) barrier_init(&b, warps);
    for (SharedBarrier& b : shared.values_there) barrier_init(&b, 1);
    for (SharedBarrier& b : shared.values_free) barrier_init(&b, warps);
    barrier_init(&shared.landed, 1);
    shared_fence();
  }
  sync_threads();
}

// One of the warpgroups that compute.
template <int kD>
struct Worker {
  using M = Memory<kD>;
  using P = Products<true>;
  unsigned char* memory;
  typename M::Shared& shared;
  int group, head, group_row, row;     // head of the item; the warpgroup's first row of the tile; the thread's, the other is 8 below
  Ring<M::stages> ring;
  Ring<2> tile_ring;

  RLHI_DEVICE Worker(const Deal& deal, unsigned char* at) : memory(at), shared(*reinterpret_cast<typename M::Shared*>(at + M::shared)) {
    group = static_cast<int>(warp_uniform(static_cast<uint32_t>(thread_index() / kGroupThreads)));
    head = deal.heads == 1 ? 0 : group, group_row = deal.heads == 1 ? group * kGroupRows : 0;
    row = group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4;
  }
  RLHI_DEVICE void pass(int steps) {          // in which this warpgroup has nothing to do
    for (int i = 0; i < steps; ++i, ++ring.step) {
      const int place = ring.place();
      barrier_wait(&shared.keys_there[place], ring.parity());
      warp_arrive(&shared.keys_free[place]);
      barrier_wait(&shared.values_there[place], ring.parity());
      warp_arrive(&shared.values_free[place]);
    }
  }
  RLHI_DEVICE void scores(float (&s)[16][4], int place) const {
    P::template scores<kD, M::rows, kPair>(s, memory + M::q + tile_ring.place() * M::query_bytes, group * kGroupRows, memory + M::k + place * M::key_bytes);
  }
  // Begins the weighted values of a pair's block, one panel of columns.
  template <int kFragments>
  RLHI_DEVICE void weigh(float (&sum)[kFragments][4], const uint32_t (&weights)[4][4], int place, int block, int panel) const {
    P::begin(sum);
    P::template weighted<kPair>(sum, weights, memory + M::v + place * M::key_bytes + block * kKeyBlock * 128, panel, false);
    P::commit();
  }
  RLHI_DEVICE void store(const GroupOutputs& to, const TileItem& item, const float (&out)[kD / 8][4], const RowState (&state)[2]) const {
    RLHI_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (row + 8 * i >= item.rows) continue;
      const int64_t to_row = item.row + row + 8 * i;
      const float factor = state[i].sum > 0 ? 1.0f / state[i].sum : 1.0f;
      auto* values = static_cast<uint16_t*>(to.out) + to_row * to.out_stride + (item.head + head) * kD + thread_index() % 4 * 2;
      RLHI_UNROLL
      for (int n = 0; n < kD / 8; ++n) store_words(values + n * 8, pack_bf16(out[n][2 * i] * factor, out[n][2 * i + 1] * factor));
      if (to.lse && thread_index() % 4 == 0) to.lse[to_row * to.lse_stride + item.head + head] = log_sum(state[i]);
    }
  }
};
#endif

}  // namespace rlhi::ops::cuda
