// A block of threads on a processor without a GPU: every thread is a fiber, and a barrier lets the others run.
//
// Fibers run one at a time, in an order that the options decide; results must not depend on it (a race would show). Shared
// memory begins as NaN, copies happen as late as the program allows (at the wait for them) or as early, products of warpgroups
// at the wait for them, and a barrier that some thread never reaches is an error, not a hang.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/sanitizers.h"

namespace rlhi::ops::cuda::emulate {

// Set by whoever owns device memory: called before a launch's first thread and after its last.
inline void (*enter_device)() = nullptr;
inline void (*leave_device)() = nullptr;

// What is done at once, or, while it is set, kept there: the stand-in for a stream that is captured.
inline std::vector<std::function<void()>>* captured = nullptr;
inline void enqueue(std::function<void()> work) {
  if (captured) captured->push_back(std::move(work));
  else work();
}

// How launches of this process run. Tests change it; results must not change.
struct Options {
  uint32_t order_seed = 0;       // 0: blocks and warps in order; else a permutation
  bool unfair = false;           // a warp runs on while it can, before others; copies happen at once
  bool group_products = false;   // attention by warpgroup products (sm_90a) instead of warp products
  size_t shared_bytes = 227 << 10;  // what a block may have
};
inline Options options;

// Where a number of threads wait for one another. What each brought lies in `slots` of the round; the last to arrive may
// compute for all.
struct Gate {
  int expected = 0, arrived = 0;
  int64_t bytes = 0;               // of copies of boxes that the round waits for too
  uint64_t round = 0;
  uint64_t marks[2] = {};          // what a round's threads did before they arrived is seen by those who waited for it
};

constexpr int kWarp = 32, kSlotBytes = 64;
struct Warp {
  Gate gate;
  alignas(16) unsigned char slots[2][kWarp][kSlotBytes];
};

struct PendingCopy {             // of cp.async
  void* to;
  const void* from;              // nullptr: zeros
  size_t bytes;
};
struct PendingBox {              // of cp.async.bulk.tensor
  unsigned char* to;
  const unsigned char* from;     // of row 0, column 0
  int64_t stride, rows, columns; // of the tensor, in bytes
  int64_t row, column;           // where the box begins; what lies outside of the tensor is zero
  int box_rows;
  Gate* gate;
};
struct PendingProduct {          // of wgmma: acc[64,n] += a[64,16] b[n,16]^T
  float* accumulators;           // this thread's n/8 fragments of 4
  bool a_in_registers;
  uint32_t a[4];
  uint64_t a_descriptor, b_descriptor;
  int n;
  bool b_transposed, accumulate;
};
template <class T>
struct Groups {                  // committed groups, oldest first, and the open one
  std::vector<std::vector<T>> committed;
  std::vector<T> open;
};

struct Stack {
  std::unique_ptr<unsigned char[]> memory;
  sanitizer::Fiber fiber;
};

struct Thread {
  void* context = nullptr;       // saved stack pointer
  Stack stack;
  Gate* waits_at = nullptr;
  uint64_t waits_for = 0;
  bool done = false;
  int index = 0;
  Groups<PendingCopy> copies;
  Groups<PendingProduct> products;
};

struct Block {
  int index = 0, n_blocks = 0, n_threads = 0;
  unsigned char* shared = nullptr;
  Gate barrier;
  std::vector<Gate> named;       // barriers of 128 threads, one a warpgroup
  std::map<uint32_t, Gate> barriers;  // of mbarrier, by their place in shared memory
  std::vector<PendingBox> boxes;      // oldest first
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  Thread* running = nullptr;
  std::exception_ptr failure;    // that a thread ended with
  void* scheduler = nullptr;     // saved stack pointer
  void* scheduler_fiber = nullptr;        // this and the stack: for sanitizers
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  const std::function<void()>* program = nullptr;
};

extern thread_local Block* current;

// Counts as one who has arrived, without waiting; true: as the last, who runs `last` before anybody goes on.
bool arrive_at(Gate& gate, const std::function<void()>* last = nullptr);
// Waits until all `gate.expected` threads are here; `last` is run by the last one before anybody goes on.
void wait_at(Gate& gate, const std::function<void()>* last = nullptr);
// Waits until the gate's round is over, without counting as one who has arrived.
void pause_at(Gate& gate);

// Copies a box of 128-byte rows, 16-byte units exchanged as in wgmma's 128-byte swizzle, at once or when no thread can go on.
void begin_box(const PendingBox& box);

// Runs `program` once for every thread of every block.
void run_grid(int n_blocks, int n_threads, size_t shared_bytes, const std::function<void()>& program);

// Executes this warpgroup's products but the newest `keep` groups; all its threads are at the gate.
void run_products(int group, size_t keep);

}  // namespace rlhi::ops::cuda::emulate
