#include "background_writer.h"

#include <algorithm>

#include "base/error.h"

namespace rlhi::bindings {

bool BackgroundWriter::has(Kind kind) const {
  return writing_ == kind || std::any_of(queue_.begin(), queue_.end(), [kind](const Item& item) { return item.kind == kind; });
}

void BackgroundWriter::wait_until(const std::function<bool()>& done) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return stopping_ || done(); });
  check(!stopping_, ErrorCode::aborted, "aborted");
}

void BackgroundWriter::wait_for(Kind kind) {
  wait_until([this, kind] { return !has(kind); });
}

void BackgroundWriter::wait_for_all() {
  wait_until([this] { return !writing_ && queue_.empty(); });
}

void BackgroundWriter::submit(Kind kind, Write write) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
    queue_.push_back({kind, std::move(write)});
  }
  changed_.notify_all();
}

void BackgroundWriter::stop() {
  std::deque<Item> dropped;            // destroyed outside the lock
  std::thread thread;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
    thread.swap(thread_);
  }
  changed_.notify_all();
  if (thread.joinable()) thread.join();
}

void BackgroundWriter::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    Item item = std::move(queue_.front());
    queue_.pop_front();
    writing_ = item.kind;
    lock.unlock();
    item.write(stopping_);
    item.write = nullptr;
    lock.lock();
    writing_.reset();
    changed_.notify_all();
  }
}

}  // namespace rlhi::bindings
