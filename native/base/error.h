// Typed errors. The engine never prints, exits or aborts: it throws one of these, which says what was expected and
// what was found. bindings/ maps `code` to the JavaScript error's `code`.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace rlhi {

enum class ErrorCode {
  invalid_argument,   // a caller's value is out of range or has the wrong shape
  invalid_file,       // a file is torn, malformed or contradicts itself
  unsupported,        // well-formed, but not something this engine runs (architecture, tensor type, ...)
  out_of_memory,      // the memory plan does not fit; the text names sizes and a setting that would fit
  io,                 // the operating system refused a read or a write
  aborted,            // an abort was requested; nothing was lost that had been reported as done
  device_lost,        // the GPU failed or went away; what was reported as done is safe, this process cannot use it again
  internal,           // a broken invariant of the engine itself
};

const char* error_code_name(ErrorCode code);  // "ERR_INVALID_ARGUMENT", "ERR_INVALID_FILE", ...

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// concat("expected ", n, " bytes, found ", m)
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, concat(parts...));
}

// Throws unless `condition` holds.
template <class... Parts>
void check(bool condition, ErrorCode code, const Parts&... parts) {
  if (!condition) fail(code, parts...);
}

}  // namespace rlhi
