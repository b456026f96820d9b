#include "base/system.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace rlhi {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// "MemAvailable:   123 kB" of /proc/meminfo, in bytes; -1 where absent.
int64_t meminfo(const std::string& field) {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, field.size() + 1, field + ":") == 0) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return -1;
}

// A file holding one number; "max" and absent files are no limit.
int64_t read_number(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : kUnlimited;
}

// A named counter of memory.stat; 0 where absent.
int64_t read_stat(const std::string& path, const std::string& name) {
  std::ifstream in(path);
  std::string key;
  for (int64_t value = 0; in >> key >> value;) {
    if (key == name) return value;
  }
  return 0;
}

struct GroupLimit {
  int64_t limit = kUnlimited;      // tightest of the group and its ancestors
  int64_t available = kUnlimited;  // least room under any of those limits
};

// Page cache that the kernel gives back under pressure is counted as used by the group, so it is taken off again.
void narrow(GroupLimit& result, const std::string& folder, const char* limit_file, const char* usage_file, const char* cache_counter) {
  const int64_t limit = read_number(folder + limit_file);
  if (limit == kUnlimited || limit > (int64_t{1} << 60)) return;  // version 1 writes "no limit" as a huge number
  const int64_t usage = read_number(folder + usage_file);
  const int64_t cache = read_stat(folder + "/memory.stat", cache_counter);
  result.limit = std::min(result.limit, limit);
  if (usage != kUnlimited) result.available = std::min(result.available, std::max<int64_t>(0, limit - usage + cache));
}

GroupLimit control_group_limit() {
  GroupLimit result;
  for_each_control_group("memory", [&](const std::string& folder, bool version2) {
    if (version2) narrow(result, folder, "/memory.max", "/memory.current", "inactive_file");
    else narrow(result, folder, "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file");
  });
  return result;
}

// Whether "cpu,cpuacct" names "cpu".
bool lists(const std::string& controllers, const std::string& controller) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == controller) return true;
  }
  return false;
}

}  // namespace

void for_each_control_group(const std::string& controller, const std::function<void(const std::string&, bool)>& each) {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version2 = controllers.empty();
    if (!version2 && !lists(controllers, controller)) continue;
    const std::string root = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    std::string group = line.substr(second + 1);
    while (true) {
      while (!group.empty() && group.back() == '/') group.pop_back();
      each(root + group, version2);
      if (group.empty()) break;
      group.resize(std::min(group.size(), group.rfind('/')));
    }
  }
}

int64_t available_memory_bytes() {
  const int64_t machine = meminfo("MemAvailable");
  const int64_t group = control_group_limit().available;
  if (machine < 0) return group == kUnlimited ? 0 : group;
  return std::min(machine, group);
}

int64_t total_memory_bytes() {
  const int64_t machine = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const int64_t group = control_group_limit().limit;
  if (machine <= 0) return group == kUnlimited ? 0 : group;
  return std::min(machine, group);
}

int64_t peak_resident_bytes() {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return usage.ru_maxrss;
#else
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace rlhi
