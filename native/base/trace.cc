#include "base/trace.h"

#include <cstdio>
#include <set>

#include "base/atomic_file.h"

namespace rlhi {

void Trace::add(int lane, const char* name, Time begin, Time end, double flops, double bytes) {
  const auto nanoseconds = [](Time from, Time to) { return std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count(); };
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spans_.size() == kMaxSpans) {
    ++left_out_;
    return;
  }
  spans_.push_back({name, lane, nanoseconds(begin_, begin), nanoseconds(begin, end), flops, bytes});
}

void Trace::write(const std::string& path) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  AtomicFile file(path);
  char line[512];
  const auto put = [&](int length) { file.write(line, static_cast<size_t>(length)); };
  put(std::snprintf(line, sizeof line, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"spans_left_out\":%lld},\"traceEvents\":[\n",
                    static_cast<long long>(left_out_)));
  std::set<int> lanes;
  for (const Span& s : spans_) lanes.insert(s.lane);
  for (const int lane : lanes) {
    const std::string name = lane == 0 ? "operations" : "thread " + std::to_string(lane - 1);
    put(std::snprintf(line, sizeof line, "{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}},\n", lane,
                      name.c_str()));
  }
  for (const Span& s : spans_) {
    put(std::snprintf(line, sizeof line, "{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f", s.lane, s.name,
                      static_cast<double>(s.begin) / 1e3, static_cast<double>(s.duration) / 1e3));
    if (s.flops > 0 || s.bytes > 0) put(std::snprintf(line, sizeof line, ",\"args\":{\"flops\":%.0f,\"bytes\":%.0f}", s.flops, s.bytes));
    put(std::snprintf(line, sizeof line, "},\n"));
  }
  put(std::snprintf(line, sizeof line, "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"rlhi-native\"}}\n]}\n"));
  file.commit();
}

}  // namespace rlhi
