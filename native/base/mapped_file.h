// A file mapped read-only into memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace rlhi {

class MappedFile {
 public:
  // Throws io, naming the path and the system's reason. A file of 0 bytes is mapped as size 0.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a small text file; throws io, naming the path, also above `max_bytes`.
std::string read_text_file(const std::string& path, size_t max_bytes = size_t{256} << 20);

bool is_directory(const std::string& path);
bool is_file(const std::string& path);

}  // namespace rlhi
