#include "infer/stop_strings.h"

#include <algorithm>

namespace rlhi {

StopStringMatcher::StopStringMatcher(const std::vector<std::string>& stop_strings) : stop_strings_(&stop_strings) {
  for (const std::string& s : stop_strings) longest_ = std::max(longest_, s.size());
}

bool StopStringMatcher::append(std::string_view bytes) {
  if (longest_ == 0) return false;
  tail_.append(bytes);
  const bool found = std::any_of(stop_strings_->begin(), stop_strings_->end(), [&](const std::string& s) { return tail_.find(s) != std::string::npos; });
  if (tail_.size() >= longest_) tail_.erase(0, tail_.size() - (longest_ - 1));
  return found;
}

}  // namespace rlhi
