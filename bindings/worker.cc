#include "worker.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace rlhi::bindings {

void JobControl::request_abort() {
  {
    const std::lock_guard lock(mutex_);
    abort_ = true;
  }
  changed_.notify_all();
}

void JobControl::take_credit() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return credits_ > 0 || abort_; });
  check(!abort_, ErrorCode::aborted, "aborted");
  --credits_;
}

bool JobControl::try_take_credit() {
  const std::lock_guard lock(mutex_);
  if (credits_ == 0 || abort_) return false;
  --credits_;
  return true;
}

void JobControl::return_credit() {
  {
    const std::lock_guard lock(mutex_);
    ++credits_;
  }
  changed_.notify_all();
}

WorkerThread::WorkerThread(std::function<bool()> on_idle, std::function<void()> on_exit)
    : thread_([this, on_idle = std::move(on_idle), on_exit = std::move(on_exit)] { loop(on_idle, on_exit); }) {}

void WorkerThread::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    queue_.push_back(std::move(job));
  }
  changed_.notify_one();
}

bool WorkerThread::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(queue_, [id](const Job& job) { return job.id == id; }) > 0;
}

void WorkerThread::stop() {
  std::deque<Job> dropped;             // destroyed outside the lock
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
    if (running_) running_->request_abort();
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool WorkerThread::wait_for_job(const std::function<bool()>& on_idle, Job& job) {
  constexpr std::chrono::microseconds kSoon(200);
  std::unique_lock lock(mutex_);
  const auto called = [this] { return stopping_ || !queue_.empty(); };
  while (!called()) {
    lock.unlock();
    const bool again = on_idle();
    lock.lock();
    if (again) changed_.wait_for(lock, kSoon, called);
    else changed_.wait(lock, called);
  }
  if (stopping_) return false;
  job = std::move(queue_.front());
  queue_.pop_front();
  running_ = job.control;
  return true;
}

void WorkerThread::loop(const std::function<bool()>& on_idle, const std::function<void()>& on_exit) {
  for (Job job; wait_for_job(on_idle, job); job = {}) {
    job.run();
    const std::lock_guard lock(mutex_);
    running_.reset();
  }
  on_exit();
}

}  // namespace rlhi::bindings
