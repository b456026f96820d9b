// A fixed set of threads that run one loop at a time. Workers spin for some tens of microseconds after a loop and then
// sleep, so that a run of short loops costs no wake-ups and an idle pool costs no time.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <type_traits>
#include <vector>

namespace rlhi {

class Trace;

// Runs a pool's loops in its place, on the caller's thread: so it can be counted what each of many threads would be given.
class LoopRunner {
 public:
  virtual ~LoopRunner() = default;
  virtual void run(int64_t tasks, const std::function<void(int64_t task)>& run_task) = 0;  // in order of the tasks
};

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started, none with a `runner`. Throws invalid_argument below 1.
  explicit ThreadPool(int threads, LoopRunner* runner = nullptr);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // What each thread does in the loops that follow is noted under `name` on its lane; nullptr: no longer. Not within a loop.
  void set_trace(Trace* trace, const char* name) { trace_ = trace, trace_name_ = name; }

  int threads() const { return threads_; }

  // Calls f(task, thread) once for every task in [0, tasks), thread in [0, threads()); returns when all are done.
  // Tasks are handed out in order, one at a time, to whoever is free, so which thread runs which is not determined:
  // f may only use `thread` to find scratch memory. The first exception of a task is thrown here, after the tasks in
  // progress ended; those not yet begun are dropped. One caller at a time, and not from within a task.
  template <class F>
  void parallel_for(int64_t tasks, F&& f) {
    using Function = std::remove_reference_t<F>;
    run(tasks, [](void* context, int64_t task, int thread) { (*static_cast<Function*>(context))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Call = void (*)(void* context, int64_t task, int thread);
  void run(int64_t tasks, Call call, void* context);
  void work(int thread);
  void take_tasks(int thread);
  void take_tasks_untraced(int thread);
  bool enter(uint32_t& seen);

  const int threads_;
  LoopRunner* const runner_;
  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_{0};
  // The loop's number; changes when a loop begins and when the pool stops. Workers sleep on it.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  // Workers inside the current loop, or closed_bit once nobody may enter any more. The caller sleeps on it.
  alignas(64) std::atomic<uint32_t> inside_{kClosed};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  Trace* trace_ = nullptr;
  const char* trace_name_ = nullptr;

  static constexpr uint32_t kClosed = 0x80000000u;
};

}  // namespace rlhi
