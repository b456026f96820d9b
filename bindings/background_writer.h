// A thread that writes what a session's worker has taken, so that the worker goes on. Knows no JavaScript.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace rlhi::bindings {

class BackgroundWriter {
 public:
  // Of each at most one copy is in memory: whoever takes another waits for the one before.
  enum class Kind { weights, state };
  // Must not throw; ends soon after `abort` is set.
  using Write = std::function<void(const std::atomic<bool>& abort)>;

  BackgroundWriter() = default;
  ~BackgroundWriter() { stop(); }
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  // Until nothing of this kind, or nothing at all, waits or is being written. Both throw aborted after stop().
  void wait_for(Kind kind);
  void wait_for_all();
  // In order; the first starts the thread. Dropped, unrun, after stop().
  void submit(Kind kind, Write write);
  // From any thread: aborts what is being written, drops what waits, joins. May be called again.
  void stop();

 private:
  struct Item {
    Kind kind;
    Write write;
  };
  void wait_until(const std::function<bool()>& done);
  bool has(Kind kind) const;
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::optional<Kind> writing_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace rlhi::bindings
