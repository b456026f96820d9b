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
