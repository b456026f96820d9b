// Attention's gradients by warpgroup products with a warp that brings (sm_90a): the bits of attention_backward.cu's. One pass over
// tiles of queries gives dq, one over tiles of keys dk and dv; each goes from tile to tile, while the next one's rows arrive.
#pragma once
#include "ops/cuda/kernels/attention_gradients.cuh"
#include "ops/cuda/kernels/attention_producer.cuh"

namespace rlhi::ops::cuda {

constexpr int kGradientGroups = 2;                                   // warpgroups that compute; a third one brings
constexpr int kGradientRows = kGradientGroups * kGroupRows;          // of a tile
constexpr int kGradientThreads = (kGradientGroups + 1) * kGroupThreads;
constexpr int kGradientWarps = kGradientGroups * kGroupThreads / 32;  // that compute
// Registers of a thread that computes and of one that brings: those of a kernel of three warpgroups, dealt anew.
constexpr int kComputeRegisters = 240, kBringRegisters = 24;
constexpr int kGradientRegisters = kGroupThreads * (kGradientGroups * kComputeRegisters + kBringRegisters);  // of a block

// Boxes have kGroupRows rows.
struct GradientMaps {
  TensorMap q, dout, k, v;
};

// Of what stays for a whole item, and of the blocks that pass through a ring of kStages places.
template <int kStages>
struct GradientBarriers {
  SharedBarrier item_there, item_free, there[kStages], free[kStages];
  SharedBarrier landed;                        // a block that ends within a box, before the rest is cleared
};
#if RLHI_HAS_GROUP_PRODUCTS
// By all threads; `parts` arrive for a block.
template <int kStages>
RLHI_DEVICE void begin_barriers(GradientBarriers<kStages>& b, int parts) {
  if (thread_index() == 0) {
    barrier_init(&b.item_there, 1);
    barrier_init(&b.item_free, kGradientWarps);
    for (SharedBarrier& there : b.there) barrier_init(&there, parts);
    for (SharedBarrier& free : b.free) barrier_init(&free, kGradientWarps);
    barrier_init(&b.landed, 1);
    shared_fence();
  }
  sync_threads();
}

// A block's rows of two tensors, which pass through the ring together; blocks of keys and of queries have kGroupRows rows.
template <int kD>
struct BlockTiles {
  static_assert(kKeyBlock == kGroupRows && kQueryBlock == kGroupRows);
  unsigned char *first, *second;

  // By one thread.
  RLHI_DEVICE void copy(const TensorMap& of_first, const TensorMap& of_second, int row, int column, SharedBarrier* there) const {
    barrier_expect(there, 2 * tile_bytes(kGroupRows, kD));
    copy_rows<kGroupRows, kD>(first, 0, of_first, row, column, there);
    copy_rows<kGroupRows, kD>(second, 0, of_second, row, column, there);
  }
  // What landed behind the block's own rows becomes zero, by a warp, which then arrives.
  RLHI_DEVICE void clear(int rows, SharedBarrier* there) const {
    clear_rows<kGroupRows, kD>(first, rows);
    clear_rows<kGroupRows, kD>(second, rows);
    shared_fence();
    warp_arrive(there);
  }
};
#endif

// Whether this device has the kernels.
bool group_gradients_there();
// Rows of dq's tiles; those of keys have kGradientRows.
int group_dq_rows(const AttentionArgs&);
void group_dq(const Launch&, const AttentionBackwardArgs&, const Gradients&, const GradientMaps&, const QueryTile* tiles, int64_t n_tiles);
void group_dkv(const Launch&, const AttentionBackwardArgs&, const Gradients&, const GradientMaps&, const BackwardTiles&);
inline void group_gradients(const Launch& at, const AttentionBackwardArgs& b, const Gradients& g, const BackwardTiles& tiles) {
  if (tiles.n_key_tiles == 0 && tiles.n_query_tiles == 0) return;
  const AttentionArgs& a = b.forward;
  const GradientMaps maps{tensor_map(a.q, kGroupRows), tensor_map(b.dout, kGroupRows), tensor_map(a.k, kGroupRows), tensor_map(a.v, kGroupRows)};
  group_dkv(at, b, g, maps, tiles);
  group_dq(at, b, g, maps, tiles.query_tiles, tiles.n_query_tiles);
}

}  // namespace rlhi::ops::cuda
