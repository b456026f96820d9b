// How the blocks of keys (or queries) of a tile pass through shared memory.
//
// All threads copy, and all use what was copied, but the warpgroups are not held together: while one waits for its products,
// another should be at its softmax. So one barrier with a phase a step takes the place of __syncthreads. In step j a thread
//   wait(j)       waits until all have arrived for j: block j is there, and what was used in step j - 2 is free
//   (starts its products)
//   arrive()      waits for the copies it began in step j - 1 and arrives for j + 1: block j + 1 is there, as far as it copies it
//   (begins copies for step j + 2)
// Arriving in step j also says: I have finished step j - 1. So a thread is ahead of another by one step at most, and a place in
// memory may be filled again two steps after the step that used it: with four places, copies for step j + 2 begin in step j.
// (They begin after arrive(), not before: the fence in it may wait for all copies that have begun.)
#pragma once
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {

constexpr int kStages = 4;  // places of a block

// A tile has 64 rows a warpgroup, and as many warpgroups as registers and shared memory have room for.
template <int kGroups>
struct Tile {
  static constexpr int threads = kGroups * kGroupThreads, rows = kGroups * kGroupRows;
};
// Work of a step that one warpgroup does for all: the first copies one tile, the second the other, the last looks for blocks.
template <int kGroups>
RLHI_DEVICE bool has_duty(int duty) {
  return thread_index() / kGroupThreads == least(duty, kGroups - 1);
}

// A tile of one head's queries, and this thread's part of it.
struct QueriesOfTile {
  QuerySegment segment;
  int head, kv_head, first, rows;    // rows [first, first + rows) of the segment
  int position;                      // of the tile's row 0
  int group_row, row;                // of the tile: the warpgroup's first row, the thread's first (the other is 8 below)
  QueryRange range, group_range;     // of positions

  RLHI_DEVICE int64_t tensor_row() const { return segment.row + first; }
};
// Blocks are tiles times heads, heads fastest.
template <int kGroups>
RLHI_DEVICE QueriesOfTile queries_of_tile(const AttentionInputs& in, const QueryTile* tiles) {
  const QueryTile tile = tiles[block_index() / in.n_heads];
  QueriesOfTile q;
  q.segment = in.segments[tile.segment];
  q.head = block_index() % in.n_heads, q.kv_head = q.head / in.group;
  q.first = tile.first, q.rows = least(Tile<kGroups>::rows, q.segment.length - tile.first);
  q.position = q.segment.position + tile.first;
  q.group_row = thread_index() / kGroupThreads * kGroupRows;
  q.row = q.group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4;
  q.range = {q.position, q.position + q.rows - 1};
  q.group_range = {q.position + q.group_row, q.position + least(q.rows, q.group_row + kGroupRows) - 1};
  return q;
}

// Begins copying a block's keys and values of one head to two tiles.
template <int kD, int kGroups, int kAtOnce = 8>
RLHI_DEVICE void load_keys(unsigned char* k, unsigned char* v, const AttentionInputs& in, const KeyBlock& b, int kv_head) {
  if (b.keys > 0 && has_duty<kGroups>(0)) {
    load_tile<kKeyBlock, kD, kGroupThreads, kAtOnce>(k, bf16_row(in.k, in.k_stride, b.row, kv_head * kD), in.k_stride, b.keys);
  }
  if (b.keys > 0 && has_duty<kGroups>(1)) {
    load_tile<kKeyBlock, kD, kGroupThreads, kAtOnce>(v, bf16_row(in.v, in.v_stride, b.row, kv_head * kD), in.v_stride, b.keys);
  }
  copy_commit();
}

template <class P, int kThreads>
class Pipeline {
 public:
  // The barrier lies at `memory` (8 bytes); call with all threads. Then come the copies of step 0, arrive(), the copies of
  // step 1, and the steps.
  RLHI_DEVICE explicit Pipeline(unsigned char* memory) : barrier_(reinterpret_cast<SharedBarrier*>(memory)) {
    if (thread_index() == 0) barrier_init(barrier_, kThreads / 32);
    sync_threads();
  }
  RLHI_DEVICE void wait(int step) const { barrier_wait(barrier_, step % 2); }
  RLHI_DEVICE void arrive() const {
    copy_wait<0>();
    P::loaded();
    sync_warp();
    if (thread_index() % 32 == 0) barrier_arrive(barrier_);
  }

 private:
  SharedBarrier* barrier_;
};

// The blocks of a walk, found ahead by one thread and kept in shared memory: products leave no registers for it. In step j
// all may read blocks j to j + 2; find(j) finds block j + 4, which others see from step j + 2 on.
template <class Walk, class Block>
struct SharedWalk {
  Walk walk;
  Block blocks[8];  // block j in place j % 8: a thread one step ahead overwrites nothing

  // Before the pipeline's constructor, which is the barrier after it.
  RLHI_DEVICE void start(const AttentionInputs& in, const Walk& from) {
    if (thread_index() != 0) return;
    walk = from;
    for (int i = 0; i < 4; ++i) blocks[i] = walk.next(in);
  }
  RLHI_DEVICE const Block& at(int step) const { return blocks[step % 8]; }
  RLHI_DEVICE void find(const AttentionInputs& in, int step) { blocks[(step + 4) % 8] = walk.next(in); }
};

}  // namespace rlhi::ops::cuda
