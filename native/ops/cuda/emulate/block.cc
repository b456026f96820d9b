#include "ops/cuda/emulate/block.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"
#include "base/sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace rlhi::ops::cuda::emulate {

thread_local Block* current = nullptr;

namespace {

constexpr size_t kStackBytes = (sanitizer::kAddress ? 512 : 128) << 10;  // checked code keeps its variables apart

// ---- switching stacks ------------------------------------------------------------------------------------------------
void thread_main() {
  try {
    (*current->program)();
  } catch (...) {  // a fiber has no caller to throw to
    current->failure = std::current_exception();
  }
  current->running->done = true;
}

#if defined(__x86_64__)
// Saves the callee's registers and the stack pointer, and goes on where `to` was saved. (swapcontext would do, but each
// call of it is a system call, and a test makes millions.)
extern "C" void rlhi_switch_stack(void** save, void* to);
__asm__(
    ".text\n.type rlhi_switch_stack,@function\nrlhi_switch_stack:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
    ".size rlhi_switch_stack, .-rlhi_switch_stack\n");

RLHI_SWITCHES_STACKS void jump_to_scheduler() { rlhi_switch_stack(&current->running->context, current->scheduler); }
RLHI_SWITCHES_STACKS void jump_to_thread(Thread& t) { rlhi_switch_stack(&current->scheduler, t.context); }

void entry();
void prepare(Thread& t) {
  auto top = reinterpret_cast<uintptr_t>(t.stack.memory.get() + kStackBytes) & ~uintptr_t{63};
  auto* frame = reinterpret_cast<void**>(top) - 8;   // six registers, the address to return to, and one for alignment
  std::fill(frame, frame + 8, nullptr);
  frame[6] = reinterpret_cast<void*>(&entry);
  t.context = frame;
}
void forget(Thread&) {}
#else
ucontext_t& context_of(void* p) { return *static_cast<ucontext_t*>(p); }
thread_local ucontext_t scheduler_context;
RLHI_SWITCHES_STACKS void jump_to_scheduler() { swapcontext(&context_of(current->running->context), &scheduler_context); }
RLHI_SWITCHES_STACKS void jump_to_thread(Thread& t) { swapcontext(&scheduler_context, &context_of(t.context)); }
void entry();
void prepare(Thread& t) {
  auto* c = new ucontext_t;
  getcontext(c);
  c->uc_stack.ss_sp = t.stack.memory.get();
  c->uc_stack.ss_size = kStackBytes;
  c->uc_link = nullptr;
  makecontext(c, &entry, 0);
  t.context = c;
}
void forget(Thread& t) { delete static_cast<ucontext_t*>(t.context); }
#endif

RLHI_SWITCHES_STACKS void to_scheduler() {
  sanitizer::release(&current->scheduler);
  void* kept = nullptr;
  sanitizer::before_switch(current->running->done ? nullptr : &kept, current->scheduler_fiber, current->scheduler_stack, current->scheduler_stack_bytes);
  jump_to_scheduler();
  sanitizer::after_switch(kept, nullptr, nullptr);
}
RLHI_SWITCHES_STACKS void to_thread(Thread& t) {
  void* kept = nullptr;
  sanitizer::before_switch(&kept, t.stack.fiber.id(), t.stack.memory.get(), kStackBytes);
  jump_to_thread(t);
  sanitizer::after_switch(kept, nullptr, nullptr);
}
RLHI_SWITCHES_STACKS void entry() {
  sanitizer::after_switch(nullptr, &current->scheduler_stack, &current->scheduler_stack_bytes);
  sanitizer::acquire(&current->program);
  thread_main();
  to_scheduler();
}

// ---- boxes -----------------------------------------------------------------------------------------------------------
constexpr int kBoxRowBytes = 128;

void end_round(Gate& gate) {
  const sanitizer::TurnKeeping turn_keeping;
  gate.arrived = 0;
  ++gate.round;
}

void run_box(const PendingBox& box) {
  for (int r = 0; r < box.box_rows; ++r) {
    for (int unit = 0; unit < kBoxRowBytes / 16; ++unit) {
      const int64_t row = box.row + r, column = box.column + unit * 16;
      unsigned char* const to = box.to + r * kBoxRowBytes + ((unit ^ (r % 8)) << 4);
      const int64_t there = row < box.rows ? std::clamp<int64_t>(box.columns - column, 0, 16) : 0;
      std::memset(to, 0, 16);
      if (there > 0) std::memcpy(to, box.from + row * box.stride + column, static_cast<size_t>(there));
    }
  }
  sanitizer::release(&box.gate->marks[box.gate->round % 2]);
  box.gate->bytes -= int64_t{box.box_rows} * kBoxRowBytes;
  check(box.gate->bytes >= 0, ErrorCode::internal, "emulated copy of a box that its barrier does not expect");
  if (box.gate->arrived == box.gate->expected && box.gate->bytes == 0) end_round(*box.gate);
}

// The oldest copy that has not been made; false where there is none.
bool run_oldest_box(Block& b) {
  if (b.boxes.empty()) return false;
  sanitizer::acquire(&b.boxes);
  const PendingBox box = b.boxes.front();
  b.boxes.erase(b.boxes.begin());
  run_box(box);
  return true;
}

// ---- one block -------------------------------------------------------------------------------------------------------
bool runnable(const Thread& t) { return !t.done && (!t.waits_at || t.waits_at->round != t.waits_for); }

void take_turns(Block& b, const std::vector<int>& order) {
  sanitizer::release(&b.program);
  {
    const sanitizer::TurnKeeping turn_keeping;
    for (size_t at = 0, idle = 0; !b.failure;) {
      if (idle == order.size()) {
        if (!run_oldest_box(b)) break;
        idle = 0;
      }
      Thread& t = b.threads[static_cast<size_t>(order[at])];
      at = at + 1 == order.size() ? 0 : at + 1;
      if (!runnable(t)) {
        ++idle;
        continue;
      }
      idle = 0;
      t.waits_at = nullptr;
      b.running = &t;
      to_thread(t);
      if (options.unfair) at = 0;
    }
  }
  sanitizer::acquire(&b.scheduler);
}

void run_block(Block& b, const std::vector<int>& order) {
  b.barrier = Gate{b.n_threads};
  b.barriers.clear();
  b.boxes.clear();
  for (size_t w = 0; w < b.warps.size(); ++w) b.warps[w].gate = Gate{std::min(kWarp, b.n_threads - static_cast<int>(w) * kWarp)};
  for (size_t g = 0; g < b.named.size(); ++g) b.named[g] = Gate{std::min(128, b.n_threads - static_cast<int>(g) * 128)};
  for (Thread& t : b.threads) {
    t.done = false, t.waits_at = nullptr;
    t.copies = {}, t.products = {};
    prepare(t);
  }
  take_turns(b, order);
  for (Thread& t : b.threads) {
    if (!t.done) {  // it did not return: sanitizers still know of its calls and its variables' borders
      sanitizer::open_memory(t.stack.memory.get(), kStackBytes);
      t.stack.fiber = sanitizer::Fiber::create();
    }
    forget(t);
  }
  if (b.failure) std::rethrow_exception(std::exchange(b.failure, nullptr));
  for (Thread& t : b.threads) {
    check(t.done, ErrorCode::internal, "emulated block ", b.index, ": thread ", t.index, " waits at a barrier that others never reach");
    check(t.copies.open.empty() && t.copies.committed.empty() && t.products.open.empty() && t.products.committed.empty(),
          ErrorCode::internal, "emulated block ", b.index, ": thread ", t.index, " ended with copies or products nobody waited for");
  }
}

std::vector<int> permutation(int n, uint32_t seed) {
  std::vector<int> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (seed != 0) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  return order;
}
// Warps and the lanes of each in some order, a warp's lanes together.
std::vector<int> thread_order(int n, uint32_t seed) {
  const std::vector<int> warps = permutation((n + kWarp - 1) / kWarp, seed), lanes = permutation(kWarp, seed);
  std::vector<int> order;
  for (const int w : warps) {
    for (const int l : lanes) {
      if (w * kWarp + l < n) order.push_back(w * kWarp + l);
    }
  }
  return order;
}

// ---- products of warpgroups ------------------------------------------------------------------------------------------
// Element (row, column) of an operand in shared memory as a descriptor describes it: 128-byte rows of 64 elements in
// groups of eight, 16-byte units exchanged by the row's number within its group (PTX ISA, "Matrix descriptor", 128B swizzle).
float operand(uint64_t descriptor, int row, int column) {
  const uint64_t start = (descriptor & 0x3fff) << 4, group_stride = ((descriptor >> 32) & 0x3fff) << 4;
  uint64_t address = start + static_cast<uint64_t>(row / 8) * group_stride + static_cast<uint64_t>(row % 8) * 128 +
                     static_cast<uint64_t>(column) * 2;
  address ^= ((address >> 7) & 7) << 4;
  bf16 value;
  std::memcpy(&value, current->shared + address, sizeof value);
  return to_float(value);
}

void run_product(int group, size_t committed, size_t item) {
  constexpr int kMost = 128;  // columns of a result
  float a[64][16], b[16][kMost], sums[64][kMost];  // b by columns of the result, which lie side by side
  const auto product_of = [&](int thread) -> const PendingProduct& {
    return current->threads[static_cast<size_t>(group * 128 + thread)].products.committed[committed][item];
  };
  const PendingProduct& first = product_of(0);
  for (int n = 0; n < first.n; ++n) {
    for (int k = 0; k < 16; ++k) b[k][n] = first.b_transposed ? operand(first.b_descriptor, k, n) : operand(first.b_descriptor, n, k);
  }
  for (int t = 0; t < 128; ++t) {
    const PendingProduct& p = product_of(t);
    const int row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int r = row + i % 2 * 8, k = column + i / 2 * 8 + half;
        a[r][k] = p.a_in_registers ? to_float(bf16{static_cast<uint16_t>(p.a[i] >> (16 * half))}) : operand(p.a_descriptor, r, k);
      }
    }
  }
  for (int r = 0; r < 64; ++r) {
    std::fill(sums[r], sums[r] + first.n, 0.0f);
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < first.n; ++n) sums[r][n] += a[r][k] * b[k][n];
    }
  }
  for (int t = 0; t < 128; ++t) {
    const PendingProduct& p = product_of(t);
    for (int f = 0; f < p.n / 8 * 4; ++f) {
      const int r = t / 32 * 16 + t % 32 / 4 + f % 4 / 2 * 8, n = f / 4 * 8 + t % 4 * 2 + f % 2;
      p.accumulators[f] = p.accumulate ? p.accumulators[f] + sums[r][n] : sums[r][n];
    }
  }
}

}  // namespace

bool arrive_at(Gate& gate, const std::function<void()>* last) {
  void* const mark = &gate.marks[gate.round % 2];
  sanitizer::release(mark);
  {
    const sanitizer::TurnKeeping turn_keeping;
    if (++gate.arrived < gate.expected || gate.bytes > 0) return false;
  }
  sanitizer::acquire(mark);
  if (last) {
    (*last)();
    sanitizer::release(mark);
  }
  end_round(gate);
  return true;
}

void wait_at(Gate& gate, const std::function<void()>* last) {
  if (!arrive_at(gate, last)) pause_at(gate);
}

void pause_at(Gate& gate) {
  const uint64_t round = gate.round;
  {
    const sanitizer::TurnKeeping turn_keeping;
    current->running->waits_at = &gate;
    current->running->waits_for = round;
  }
  to_scheduler();
  sanitizer::acquire(&gate.marks[round % 2]);
}

void begin_box(const PendingBox& box) {
  check(reinterpret_cast<uintptr_t>(box.from) % 16 == 0 && box.stride % 16 == 0 && box.column % 16 == 0 && (box.to - current->shared) % 1024 == 0,
        ErrorCode::internal, "emulated copy of a box from or to an unaligned address");
  if (options.unfair) return run_box(box);
  current->boxes.push_back(box);
  sanitizer::release(&current->boxes);
}

void run_products(int group, size_t keep) {
  const size_t first = static_cast<size_t>(group) * 128;
  const auto& lead = current->threads[first].products.committed;
  const size_t n = lead.size() > keep ? lead.size() - keep : 0;
  for (size_t g = 0; g < n; ++g) {
    for (size_t item = 0; item < lead[g].size(); ++item) run_product(group, g, item);
  }
  for (size_t t = first; t < first + 128; ++t) {
    auto& committed = current->threads[t].products.committed;
    committed.erase(committed.begin(), committed.begin() + static_cast<std::ptrdiff_t>(n));
  }
}

void run_grid(int n_blocks, int n_threads, size_t shared_bytes, const std::function<void()>& program) {
  static thread_local std::vector<Stack> stacks;
  check(shared_bytes <= options.shared_bytes, ErrorCode::internal, "a block of ", shared_bytes, " bytes of shared memory");
  Block b;
  std::vector<unsigned char> shared(shared_bytes + 1024);
  b.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared.data()) + 1023) & ~uintptr_t{1023});
  sanitizer::close_memory(b.shared + shared_bytes, static_cast<size_t>(shared.data() + shared.size() - (b.shared + shared_bytes)));
  b.n_blocks = n_blocks, b.n_threads = n_threads;
  b.warps.resize(static_cast<size_t>((n_threads + kWarp - 1) / kWarp));
  b.named.resize(static_cast<size_t>((n_threads + 127) / 128));
  b.threads.resize(static_cast<size_t>(n_threads));
  b.program = &program;
  b.scheduler_fiber = sanitizer::Fiber::current();
  for (int i = 0; i < n_threads; ++i) {
    Thread& t = b.threads[static_cast<size_t>(i)];
    t.index = i;
    if (!stacks.empty()) t.stack = std::move(stacks.back()), stacks.pop_back();
    else t.stack = {std::make_unique<unsigned char[]>(kStackBytes), sanitizer::Fiber::create()};
  }
  Block* const outer = current;
  current = &b;
  if (enter_device) enter_device();
  const auto leave = [&] {
    if (leave_device) leave_device();
    current = outer;
    for (Thread& t : b.threads) stacks.push_back(std::move(t.stack));
  };
  try {
    const std::vector<int> order = thread_order(n_threads, options.order_seed);
    for (const int i : permutation(n_blocks, options.order_seed)) {
      b.index = i;
      std::fill(b.shared, b.shared + shared_bytes, static_cast<unsigned char>(0xff));  // NaN as f32 and as bf16
      run_block(b, order);
    }
  } catch (...) {
    leave();
    throw;
  }
  leave();
}

}  // namespace rlhi::ops::cuda::emulate
