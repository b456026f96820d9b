// How the blocks of keys (or queries) of a tile pass through shared memory.
//
// All threads copy, and all use what was copied, but the warpgroups are not held together: while one waits for its products,
// another should be at its softmax. So one barrier with a phase a step takes the place of __syncthreads. In step j a thread
//   wait(j)       waits until all have arrived for j: block j is there, and what was used in step j - 2 is free
//   (issues its copies for a later step, and commits them, even if there are none)
//   (starts its products)
//   arrive()      waits for its own copies but the newest group, and arrives for j + 1
// Arriving in step j says: I have finished step j - 1. So a thread is ahead of another by one step at most, and a place in
// memory may be filled again two steps after the step that used it: with four places, a copy for step j + 2 is begun in step j.
#pragma once
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {

constexpr int kStages = 4;  // places of a block

template <class P, int kThreads>
class Pipeline {
 public:
  // The barrier lies at `memory` (8 bytes); call it with all threads, then begin() once the copies of step 0 and 1 are committed.
  RLHI_DEVICE explicit Pipeline(unsigned char* memory) : barrier_(reinterpret_cast<SharedBarrier*>(memory)) {
    if (thread_index() == 0) barrier_init(barrier_, kThreads / 32);
    sync_threads();
  }
  RLHI_DEVICE void wait(int step) const { barrier_wait(barrier_, step % 2); }
  RLHI_DEVICE void arrive() const {
    copy_wait<1>();
    P::loaded();
    sync_warp();
    if (thread_index() % 32 == 0) barrier_arrive(barrier_);
  }

 private:
  SharedBarrier* barrier_;
};

// The blocks of a walk, found ahead by one thread and kept in shared memory: products leave no registers for it. In step j
// all may read blocks j to j + 2; find(j), before the step's arrive(), finds block j + 3.
template <class Walk, class Block>
struct SharedWalk {
  Walk walk;
  Block blocks[8];  // block j in place j % 8: a thread one step ahead overwrites nothing

  // Before the pipeline's constructor, which is the barrier after it.
  RLHI_DEVICE void start(const AttentionInputs& in, const Walk& from) {
    if (thread_index() != 0) return;
    walk = from;
    for (int i = 0; i < 3; ++i) blocks[i] = walk.next(in);
  }
  RLHI_DEVICE const Block& at(int step) const { return blocks[step % 8]; }
  RLHI_DEVICE void find(const AttentionInputs& in, int step) {
    if (thread_index() == 0) blocks[(step + 3) % 8] = walk.next(in);
  }
};

}  // namespace rlhi::ops::cuda
