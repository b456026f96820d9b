// One native thread with a queue of jobs, and what a job and its owner tell each other. Knows no JavaScript.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace rlhi::bindings {

// Shared by a job and its owner. A job may have kCredits events under way to the owner; then it waits, so that a slow
// owner cannot make the queue grow without bound. Waiting ends with an abort, so it can never be forever.
class JobControl {
 public:
  static constexpr int kCredits = 256;

  void request_abort();
  const std::atomic<bool>& abort() const { return abort_; }
  // Worker: takes a credit, waiting for one. Throws aborted.
  void take_credit();
  // Worker: takes a credit if there is one.
  bool try_take_credit();
  // Owner: an event has been dealt with.
  void return_credit();

 private:
  std::atomic<bool> abort_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  int credits_ = kCredits;
};

struct Job {
  uint64_t id = 0;
  std::shared_ptr<JobControl> control;
  std::function<void()> run;           // must not throw
};

class WorkerThread {
 public:
  // Both run on the thread: on_idle when no job waits, and again soon where it returns true; on_exit last.
  WorkerThread(std::function<bool()> on_idle, std::function<void()> on_exit);
  ~WorkerThread() { stop(); }
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  // In order. Does nothing after stop().
  void submit(Job job);
  // Takes a job that has not begun out of the queue; false where it has begun or ended.
  bool cancel(uint64_t id);
  // Aborts what runs, drops what waits, joins. May be called again.
  void stop();

 private:
  void loop(const std::function<bool()>& on_idle, const std::function<void()>& on_exit);
  bool wait_for_job(const std::function<bool()>& on_idle, Job& job);  // false: the thread is to end

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> queue_;
  std::shared_ptr<JobControl> running_;
  bool stopping_ = false;
  std::thread thread_;                 // last: starts when all else is there
};

}  // namespace rlhi::bindings
