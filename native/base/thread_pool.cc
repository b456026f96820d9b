#include "base/thread_pool.h"

#include <chrono>
#include <system_error>

#include "base/error.h"
#include "base/trace.h"

namespace rlhi {
namespace {

constexpr std::chrono::microseconds kSpin{40};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until value differs from `old`: spins first, then sleeps.
uint32_t wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      const uint32_t now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  for (;;) {
    value.wait(old, std::memory_order_acquire);
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads, LoopRunner* runner) : threads_(threads), runner_(runner) {
  check(threads >= 1, ErrorCode::invalid_argument, "a thread pool needs at least 1 thread, got ", threads);
  if (runner) return;
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& e) {
    stop_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (auto& worker : workers_) worker.join();
    fail(ErrorCode::out_of_memory, "cannot start ", threads, " threads: ", e.what());
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(int thread) {
  if (!trace_) return take_tasks_untraced(thread);
  const Trace::Time begin = Trace::now();
  take_tasks_untraced(thread);
  trace_->add(thread + 1, trace_name_, begin, Trace::now());
}

void ThreadPool::take_tasks_untraced(int thread) {
  const int64_t tasks = tasks_;
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks) return;
    try {
      call_(context_, task, thread);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      next_.store(tasks, std::memory_order_relaxed);
    }
  }
}

// A worker may only touch the loop's fields between entering and leaving, while the caller waits for it. It may enter a
// loop it has not been told of yet, and find nothing to do when it is told.
bool ThreadPool::enter(uint32_t& seen) {
  uint32_t inside = inside_.load(std::memory_order_acquire);
  while (!(inside & kClosed)) {
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {
      seen = epoch_.load(std::memory_order_acquire);
      return true;
    }
  }
  return false;
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    const uint32_t now = wait_for_change(epoch_, seen);
    if (stop_.load(std::memory_order_acquire)) return;
    seen = now;
    if (!enter(seen)) continue;
    take_tasks(thread);
    const uint32_t left = inside_.fetch_sub(1, std::memory_order_acq_rel) - 1;
    if (left == kClosed) inside_.notify_one();
  }
}

void ThreadPool::run(int64_t tasks, Call call, void* context) {
  if (tasks <= 0) return;
  if (runner_) return runner_->run(tasks, [&](int64_t task) { call(context, task, 0); });
  if (tasks == 1 || workers_.empty()) {
    const Trace::Time begin = trace_ ? Trace::now() : Trace::Time();
    for (int64_t task = 0; task < tasks; ++task) call(context, task, 0);
    if (trace_) trace_->add(1, trace_name_, begin, Trace::now());
    return;
  }
  call_ = call;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  inside_.store(0, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  epoch_.notify_all();
  take_tasks(0);
  uint32_t inside = inside_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while (inside != kClosed) inside = wait_for_change(inside_, inside);
  if (failed_.load(std::memory_order_acquire)) {
    failed_.store(false);
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

}  // namespace rlhi
