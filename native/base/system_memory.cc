#include "base/system_memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace rlhi {
namespace {

constexpr size_t kUnknown = std::numeric_limits<size_t>::max();

size_t read_number(const std::string& path) {  // "max" and absent files are no limit
  std::ifstream in(path);
  uint64_t value = 0;
  return in >> value ? static_cast<size_t>(value) : kUnknown;
}

size_t read_field(const std::string& path, const std::string& name) {
  std::ifstream in(path);
  std::string word;
  uint64_t value = 0;
  while (in >> word)
    if (word == name && in >> value) return static_cast<size_t>(value);
  return kUnknown;
}

size_t available_by_kernel() {
  const size_t kib = read_field("/proc/meminfo", "MemAvailable:");
  if (kib != kUnknown) return kib * 1024;
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) return static_cast<size_t>(pages) * static_cast<size_t>(page);
#endif
  return kUnknown;
}

// A group's limit less what it uses; its file cache can be given back and does not count as used.
size_t available_in_group(const std::string& limit_file, const std::string& usage_file, const std::string& stat_file, const char* cache_field) {
  const size_t limit = read_number(limit_file), used = read_number(usage_file);
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  const size_t cache = read_field(stat_file, cache_field);
  const size_t held = cache == kUnknown ? used : used - std::min(used, cache);
  return limit - std::min(limit, held);
}

}  // namespace

size_t available_memory_bytes() {
  const std::string v2 = "/sys/fs/cgroup/", v1 = "/sys/fs/cgroup/memory/";
  const size_t least = std::min({available_by_kernel(), available_in_group(v2 + "memory.max", v2 + "memory.current", v2 + "memory.stat", "inactive_file"),
                                 available_in_group(v1 + "memory.limit_in_bytes", v1 + "memory.usage_in_bytes", v1 + "memory.stat", "total_inactive_file")});
  return least == kUnknown ? 0 : least;
}

}  // namespace rlhi
