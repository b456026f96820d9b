// The runtime of a machine without a GPU: "device" memory is an arena of the host's that only kernels and copies may touch.
// Outside of them its pages are closed, so that host code which reads or writes device memory ends the test at that line.
// Fresh memory begins with NaNs, and blocks stand apart with a mark between them that a write out of bounds destroys.
// Work is done when it is given, but on a stream of copies alone as late as it may be: where something waits for it. So an order that
// the backend does not ask for shows as another result.
#include "ops/cuda/runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/sanitizers.h"
#include "ops/cuda/emulate/block.h"

namespace {
// The work of a stream of copies that is not done yet.
struct LateWork {
  std::deque<std::function<void()>> left;
  uint64_t given = 0, done = 0;
  void do_until(uint64_t count) {
    while (done < count) {
      const std::function<void()> next = std::move(left.front());
      left.pop_front();
      ++done;
      next();
    }
  }
};
}  // namespace

struct CUstream_st {
  std::shared_ptr<LateWork> late;                // none: work is done when it is given
};
struct CUevent_st {
  bool recorded = false;
  std::shared_ptr<LateWork> late;                // of the stream it was recorded on
  uint64_t place = 0;                            // in that work
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

namespace rlhi::ops::cuda::runtime {
namespace {

constexpr size_t kArenaBytes = size_t{4} << 30;
constexpr size_t kBlock = 256;                   // alignment of blocks, and length of the mark behind each
constexpr int kMark = 0x5a;
constexpr size_t kPoisoned = size_t{1} << 20;    // of a block, from its start: pages never written cost nothing to close
constexpr int64_t kDeviceBytes = int64_t{2} << 30;

size_t rounded(size_t bytes) { return (bytes + kBlock - 1) / kBlock * kBlock; }

class Arena {
 public:
  Arena() {
    base_ = static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    check(base_ != MAP_FAILED, ErrorCode::out_of_memory, "no address space for the emulated GPU's memory");
    emulate::enter_device = [] { the().open(); };
    emulate::leave_device = [] { the().close(); };
  }
  static Arena& the() {
    static Arena& arena = *new Arena;            // outlives whatever is closed at the process's end
    return arena;
  }

  void open() { protect(++depth_ == 1, PROT_READ | PROT_WRITE); }
  void close() { protect(--depth_ == 0, PROT_NONE); }

  void* allocate(size_t bytes) {
    const size_t need = rounded(bytes) + kBlock;
    if (static_cast<int64_t>(used_ + need) > kDeviceBytes) return nullptr;
    size_t at = 0;                               // first fit between the blocks there are
    for (const auto& [begin, length] : blocks_) {
      if (begin - at >= need) break;
      at = begin + length;
    }
    if (at + need > kArenaBytes) return nullptr;
    blocks_[at] = need;
    used_ += need;
    if (at + need > high_) {
      high_ = at + need;
      protect(depth_ == 0, PROT_NONE);
    }
    open();
    sanitizer::open_memory(base_ + at, need);
    std::memset(base_ + at, 0xff, std::min(need - kBlock, kPoisoned));
    std::memset(base_ + at + need - kBlock, kMark, kBlock);
    sanitizer::close_memory(base_ + at + bytes, need - bytes);
    close();
    return base_ + at;
  }
  void release(void* p) {
    const auto block = blocks_.find(static_cast<size_t>(static_cast<char*>(p) - base_));
    open();
    sanitizer::open_memory(base_ + block->first, block->second);
    const char* mark = base_ + block->first + block->second - kBlock;
    for (size_t i = 0; i < kBlock; ++i) damaged_ = damaged_ || mark[i] != kMark;
    sanitizer::close_memory(base_ + block->first, block->second);
    close();
    used_ -= block->second;
    blocks_.erase(block);
  }
  int64_t free_bytes() const { return kDeviceBytes - static_cast<int64_t>(used_); }
  void check_marks() {
    const bool damaged = damaged_;
    damaged_ = false;
    check(!damaged, ErrorCode::internal, "a kernel wrote behind a block of device memory");
  }

 private:
  void protect(bool now, int access) {
    if (now && high_ > 0) mprotect(base_, (high_ + 4095) / 4096 * 4096, access);
  }
  char* base_;
  std::map<size_t, size_t> blocks_;              // offset to length, mark included
  size_t used_ = 0, high_ = 0;
  int depth_ = 0;
  bool damaged_ = false;
};

// As the real runtime, which spoils the capture.
void require_no_capture(const char* what) {
  check(!emulate::captured, ErrorCode::internal, "CUDA: ", what, ": operation not permitted when stream is capturing");
}

// RLHI_EMULATED_GPU=lost:FILE: once FILE is there no call to the GPU succeeds, as after a failure of the hardware.
void require_device(const char* what) {
  static const std::string lost = [] {
    const char* set = std::getenv("RLHI_EMULATED_GPU");
    return set && std::string(set).starts_with("lost:") ? std::string(set).substr(5) : std::string();
  }();
  check(lost.empty() || access(lost.c_str(), F_OK) != 0, ErrorCode::device_lost, "CUDA: ", what, ": the emulated GPU is lost; this process can no longer use the GPU");
}

std::vector<std::weak_ptr<LateWork>>& late_streams() {
  static auto& all = *new std::vector<std::weak_ptr<LateWork>>;  // as the arena
  return all;
}
// As releasing memory does.
void do_all_work() {
  for (const auto& stream : late_streams()) {
    if (const auto late = stream.lock()) late->do_until(late->given);
  }
}
void do_now_or_late(Stream stream, std::function<void()> work) {
  if (!stream->late) return work();
  stream->late->left.push_back(std::move(work));
  ++stream->late->given;
}

// Opens the arena for one copy.
struct Access {
  Access() {
    require_device("a copy");
    require_no_capture("a copy");
    Arena::the().open();
  }
  ~Access() { Arena::the().close(); }
};

}  // namespace

int device_count() { return std::getenv("RLHI_EMULATED_GPU") && std::string(std::getenv("RLHI_EMULATED_GPU")) == "none" ? 0 : 1; }
DeviceFacts device_facts(int) { return {"emulated GPU", 9, 0, 4, kDeviceBytes}; }
void require_kernels(const DeviceFacts&) {
  Arena::the();
  emulate::options.group_products = true;        // as capability 9.0 has them
}
void use_device(int) {}

Stream create_stream(Work work) {
  auto* stream = new CUstream_st;
  if (work == Work::copies) {
    stream->late = std::make_shared<LateWork>();
    late_streams().push_back(stream->late);
  }
  return stream;
}
void destroy_stream(Stream stream) noexcept {
  if (stream->late) stream->late->do_until(stream->late->given);
  delete stream;
  std::erase_if(late_streams(), [](const auto& late) { return late.expired(); });
}
void synchronize(Stream stream) {
  require_no_capture("waiting for the GPU");
  require_device("waiting for the GPU");
  if (stream->late) stream->late->do_until(stream->late->given);
  Arena::the().check_marks();
}

void* allocate(size_t bytes) {
  require_no_capture("allocating memory");
  return Arena::the().allocate(bytes);
}
void release(void* p) noexcept {
  do_all_work();
  Arena::the().release(p);
}
void* allocate_pinned(size_t bytes) { return std::malloc(bytes); }
void release_pinned(void* p) noexcept {
  do_all_work();
  std::free(p);
}
int64_t free_bytes() { return Arena::the().free_bytes(); }

void copy_in(Stream stream, void* to_device, const void* from_host, size_t bytes) {
  do_now_or_late(stream, [=] {
    const Access access;
    std::memcpy(to_device, from_host, bytes);
  });
}
void copy_out(Stream stream, void* to_host, const void* from_device, size_t bytes) { copy_in(stream, to_host, from_device, bytes); }
void zero(Stream, void* device, size_t bytes) {
  const Access access;
  std::memset(device, 0, bytes);
}
void zero_rows(Stream, void* device, size_t stride_bytes, size_t width_bytes, size_t rows) {
  const Access access;
  for (size_t i = 0; i < rows; ++i) std::memset(static_cast<char*>(device) + i * stride_bytes, 0, width_bytes);
}

Event create_event() { return new CUevent_st; }
void destroy_event(Event event) noexcept { delete event; }
void record(Event event, Stream stream) {
  event->recorded = true;
  event->late = stream->late;
  event->place = stream->late ? stream->late->given : 0;
}
void wait_for(Stream stream, Event event) {      // of an event that was never recorded: nothing to wait for, as the real one has it
  if (!event->late) return;
  do_now_or_late(stream, [late = event->late, place = event->place] { late->do_until(place); });
}
void wait(Event event) {
  require_device("waiting for the GPU");
  check(event->recorded, ErrorCode::internal, "an event was waited for that was never recorded");
  if (event->late) event->late->do_until(event->place);
  Arena::the().check_marks();
}
bool passed(Event event) {
  wait(event);
  return true;
}
// Each interval is shorter than the one before: whoever prefers the faster of two takes the later.
double milliseconds(Event, Event) {
  static double last = 1e6;
  return last *= 0.999;
}

// One capture at a time.
void begin_capture(Stream) {
  static std::vector<std::function<void()>> work;
  work.clear();
  emulate::captured = &work;
}
Graph end_capture(Stream) { return new CUgraphExec_st{std::move(*std::exchange(emulate::captured, nullptr))}; }
void abandon_capture(Stream) noexcept { emulate::captured = nullptr; }
void launch(Graph graph, Stream) {
  for (const auto& work : graph->work) work();
}
void destroy_graph(Graph graph) noexcept { delete graph; }

}  // namespace rlhi::ops::cuda::runtime
