// Where the time of a run went: spans on named lanes, written in the Trace Event Format that Perfetto and Chrome open
// (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
#pragma once
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace rlhi {

class Trace {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static Time now() { return std::chrono::steady_clock::now(); }

  Trace() : begin_(now()) {}

  // What `lane` did from `begin` to `end`; `name` must live as long as the trace. Any thread. What comes after the first
  // kMaxSpans is counted and left out.
  void add(int lane, const char* name, Time begin, Time end, double flops = 0, double bytes = 0);

  // Throws io. Lane 0 is called "operations", lane i "thread i - 1".
  void write(const std::string& path) const;

  int64_t left_out() const { return left_out_; }
  static constexpr size_t kMaxSpans = size_t{2} << 20;  // about 100 MB in memory, 250 MB on disk

 private:
  struct Span {
    const char* name;
    int lane;
    int64_t begin, duration;             // nanoseconds
    double flops, bytes;
  };

  Time begin_;
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
  int64_t left_out_ = 0;
};

}  // namespace rlhi
