// A file that appears under its name only when it is whole and on disk.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rlhi {

class AtomicFile {
 public:
  // Opens a temporary file beside `path`. Throws io, as every member does, with the path and the system's message.
  explicit AtomicFile(const std::string& path);
  // Removes the temporary file unless commit() was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  // Flushes to disk and renames over `path`; the old content stays until that moment.
  void commit();
  uint64_t written() const { return written_; }

 private:
  void flush();
  void write_through(const void* data, size_t bytes);
  [[noreturn]] void fail_system(const char* doing);

  std::string path_, temporary_;
  int fd_ = -1;
  std::vector<char> buffer_;
  uint64_t written_ = 0;
};

void write_text_file(const std::string& path, const std::string& text);

}  // namespace rlhi
