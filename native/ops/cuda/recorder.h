// What a backend enqueues, written down byte by byte: kernels with their arguments, products with their operands. Work that comes again with
// another content of the same lists can then be rehearsed, which enqueues nothing and tells whether every launch would be the very one of
// before; if so, a graph of them is launched at once (repeated_work.h).
#pragma once
#include <cstring>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace rlhi::ops::cuda {

class Recorder {
 public:
  enum class Mode { off, recording, rehearsing };
  Mode mode() const { return mode_; }

  // Of a launch, all that decides what it does. False where it is not to be made.
  template <class... Parts>
  bool takes(const Parts&... parts) {
    if (mode_ == Mode::off) return true;
    (note(parts), ...);
    return mode_ == Mode::recording;
  }

  // `log` is written from here on, or compared with.
  void begin(Mode mode, std::vector<unsigned char>& log) { mode_ = mode, log_ = &log, at_ = 0, same_ = true; }
  void differs() { same_ = false; }
  // Whether what was rehearsed was what the log says, to its end.
  bool end() {
    const bool whole = mode_ == Mode::recording || at_ == log_->size();
    mode_ = Mode::off, log_ = nullptr;
    return same_ && whole;
  }

 private:
  template <class T>
  void note(T part) {
    static_assert(std::is_trivially_copyable_v<T>);
#if defined(__GNUC__) && !defined(__clang__)
    __builtin_clear_padding(&part);  // without it a difference may be seen where there is none, which costs time alone
#endif
    note_bytes(&part, sizeof part);
  }
  void note_bytes(const void* bytes, std::size_t n) {
    const auto* from = static_cast<const unsigned char*>(bytes);
    if (mode_ == Mode::recording) {
      log_->insert(log_->end(), from, from + n);
      return;
    }
    same_ = same_ && log_->size() - at_ >= n && std::memcmp(log_->data() + at_, from, n) == 0;
    if (same_) at_ += n;
  }

  Mode mode_ = Mode::off;
  std::vector<unsigned char>* log_ = nullptr;
  std::size_t at_ = 0;
  bool same_ = true;
};

// Throws internal: what is done at once can neither be part of a graph nor be left out of a rehearsal.
inline void require_no_recording(const Recorder& recorder) {
  check(recorder.mode() == Recorder::Mode::off, ErrorCode::internal, "repeated work may launch kernels and products, and nothing else");
}

}  // namespace rlhi::ops::cuda
