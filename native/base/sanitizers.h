// What sanitizers cannot see by themselves: memory handed out by hand, accesses by assembly and masked instructions, and stacks
// switched by hand. In a build without them, nothing.
#pragma once
#include <cstddef>
#include <utility>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RLHI_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer)
#define RLHI_THREAD_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define RLHI_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__)
#define RLHI_THREAD_SANITIZER
#endif

#if defined(RLHI_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define RLHI_SWITCHES_STACKS __attribute__((no_sanitize("address")))  // of a function that may not return where it was called
#elif defined(RLHI_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#define RLHI_SWITCHES_STACKS __attribute__((no_sanitize("thread")))
extern "C" {
void __tsan_read_range(void* p, unsigned long bytes);
void __tsan_write_range(void* p, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#else
#define RLHI_SWITCHES_STACKS
#endif

namespace rlhi::sanitizer {

// ---- memory handed out by hand ----
#if defined(RLHI_ADDRESS_SANITIZER)
constexpr bool kAddress = true;
// Reads and writes of closed bytes are errors until they are opened.
inline void close_memory(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void open_memory(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
constexpr bool kAddress = false;
inline void close_memory(const void*, size_t) {}
inline void open_memory(const void*, size_t) {}
#endif

// ---- accesses by assembly and masked instructions ----
// Checks an access that the compiler does not check because it does not see it.
inline void reads([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#if defined(RLHI_ADDRESS_SANITIZER)
  if (const void* closed = __asan_region_is_poisoned(const_cast<void*>(p), bytes)) (void)*static_cast<const volatile char*>(closed);
#elif defined(RLHI_THREAD_SANITIZER)
  __tsan_read_range(const_cast<void*>(p), bytes);
#endif
}
inline void writes([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#if defined(RLHI_ADDRESS_SANITIZER)
  if (void* closed = __asan_region_is_poisoned(p, bytes)) *static_cast<volatile char*>(closed) = 0;
#elif defined(RLHI_THREAD_SANITIZER)
  __tsan_write_range(p, bytes);
#endif
}

// ---- stacks switched by hand ----
// What runs on a stack of its own, as ThreadSanitizer counts it: a thread, whose accesses are ordered with others' by release()
// and acquire() alone.
class Fiber {
 public:
#if defined(RLHI_THREAD_SANITIZER)
  Fiber() = default;
  static Fiber create() { return Fiber(__tsan_create_fiber(0)); }
  ~Fiber() {
    if (id_) __tsan_destroy_fiber(id_);
  }
  Fiber(Fiber&& other) noexcept : id_(std::exchange(other.id_, nullptr)) {}
  Fiber& operator=(Fiber&& other) noexcept { return std::swap(id_, other.id_), *this; }
  void* id() const { return id_; }
  static void* current() { return __tsan_get_current_fiber(); }

 private:
  explicit Fiber(void* id) : id_(id) {}
  void* id_ = nullptr;
#else
  static Fiber create() { return {}; }
  void* id() const { return nullptr; }
  static void* current() { return nullptr; }
#endif
};

// Before a switch: to which fiber and stack; `kept` is for the return to the stack that is left, null if there is none.
RLHI_SWITCHES_STACKS inline void before_switch([[maybe_unused]] void** kept, [[maybe_unused]] void* fiber, [[maybe_unused]] const void* bottom,
                                               [[maybe_unused]] size_t bytes) {
#if defined(RLHI_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(kept, bottom, bytes);
#elif defined(RLHI_THREAD_SANITIZER)
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
#endif
}
// After it: what this stack kept, null at first; gives the stack that was left.
inline void after_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** bottom, [[maybe_unused]] size_t* bytes) {
#if defined(RLHI_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(kept, bottom, bytes);
#endif
}

// What was done before release(mark) is seen by whoever acquires the mark afterwards.
inline void release([[maybe_unused]] void* mark) {
#if defined(RLHI_THREAD_SANITIZER)
  __tsan_release(mark);
#endif
}
inline void acquire([[maybe_unused]] void* mark) {
#if defined(RLHI_THREAD_SANITIZER)
  __tsan_acquire(mark);
#endif
}

// While it lives, this fiber's accesses are no part of a race: fibers take turns, so what keeps their turns needs no order.
class TurnKeeping {
 public:
#if defined(RLHI_THREAD_SANITIZER)
  TurnKeeping() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~TurnKeeping() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
  TurnKeeping() {}
  ~TurnKeeping() {}
#endif
  TurnKeeping(const TurnKeeping&) = delete;
};

}  // namespace rlhi::sanitizer
