// Attention's forward by warpgroup products: a tile's memory, its barriers, the warp that brings, and where a warpgroup stands.
#pragma once
#include "ops/cuda/kernels/attention_producer.cuh"

namespace rlhi::ops::cuda {

constexpr int kPair = 2 * kKeyBlock;          // keys of a step
constexpr int kGroups = 3;                    // warpgroups that compute

template <int kD>
struct Memory {
  static constexpr int rows = kGroups * kGroupRows, threads = (kGroups + 1) * kGroupThreads;  // the last group brings
  static constexpr int stages = kD == 64 ? 4 : 2, key_bytes = tile_bytes(kPair, kD), query_bytes = tile_bytes(rows, kD);
  static constexpr int q = 0, k = q + 2 * query_bytes, v = k + stages * key_bytes, shared = v + stages * key_bytes;
  struct Shared {
    SharedBarrier queries_there[2], queries_free[2], keys_there[stages], keys_free[stages], values_there[stages], values_free[stages];
    SharedBarrier landed;                     // values that end within a box, before the rest is cleared
    KeyBlock pairs[stages];
    TileItem<kGroups> items[2];
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

#if RLHI_HAS_GROUP_PRODUCTS
template <int kD>
RLHI_DEVICE void bring(const AttentionInputs& in, const GroupMaps& maps, const Deal& deal, unsigned char* memory) {
  using M = Memory<kD>;
  auto& shared = *reinterpret_cast<typename M::Shared*>(memory + M::shared);
  const bool first_lane = thread_index() % 32 == 0;
  Ring<M::stages> ring;
  Ring<2> tile_ring;
  int landed = 0;
  for (int at; (at = item_at(tile_ring.step)) < deal.items; ++tile_ring.step) {
    const QueryItem<kGroups> own(in, deal, at);
    const int column = own.head / in.group * kD, half = tile_ring.place();
    barrier_wait(&shared.queries_free[half], tile_ring.parity_before());
    own.template tell<kPair>(in, shared.items[half]);
    if (first_lane) {
      barrier_expect(&shared.queries_there[half], own.groups() * tile_bytes(kGroupRows, kD));
      own.template copy<kD>(memory + M::q + half * M::query_bytes, maps.q, &shared.queries_there[half]);
    }
    auto walk = KeyWalk<kPair>::over(own.segment, own.range);
    for (KeyBlock pair = walk.next(in); pair.keys > 0; pair = walk.next(in), ++ring.step) {
      const int place = ring.place();
      const auto copy = [&](const TensorMap& map, int first, SharedBarrier* there) {
        barrier_expect(there, M::key_bytes);
        copy_rows<kPair, kD>(memory + first + place * M::key_bytes, 0, map, pair.row, column, there);
      };
      barrier_wait(&shared.keys_free[place], ring.parity_before());
      if (first_lane) {
        shared.pairs[place] = pair;
        copy(maps.k, M::k, &shared.keys_there[place]);
      }
      barrier_wait(&shared.values_free[place], ring.parity_before());
      if (pair.keys == kPair) {
        if (first_lane) copy(maps.v, M::v, &shared.values_there[place]);
        sync_warp();                          // no lane is a phase behind the one that expects
        continue;
      }
      if (first_lane) copy(maps.v, M::v, &shared.landed);
      barrier_wait(&shared.landed, landed++ % 2);
      clear_rows<kPair, kD>(memory + M::v + place * M::key_bytes, pair.keys);
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
struct Worker : GroupPlace {
  using M = Memory<kD>;
  using P = Products<true>;
  unsigned char* memory;
  typename M::Shared& shared;
  Ring<M::stages> ring;
  Ring<2> tile_ring;

  RLHI_DEVICE Worker(const Deal& deal, unsigned char* at) : GroupPlace(deal.heads == 1), memory(at), shared(*reinterpret_cast<typename M::Shared*>(at + M::shared)) {}
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
  RLHI_DEVICE void store(const GroupOutputs& to, const TileItem<kGroups>& item, const float (&out)[kD / 8][4], const RowState (&state)[2]) const {
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
