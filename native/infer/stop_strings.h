// Finds stop strings in an answer's bytes as its tokens come, also across token boundaries.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace rlhi {

class StopStringMatcher {
 public:
  StopStringMatcher() = default;
  explicit StopStringMatcher(const std::vector<std::string>& stop_strings);
  // Appends a token's bytes; true once a stop string stands anywhere in the bytes so far.
  bool append(std::string_view bytes);

 private:
  const std::vector<std::string>* stop_strings_ = nullptr;
  size_t longest_ = 0;
  std::string tail_;           // the last longest_ - 1 bytes: what a stop string may begin in
};

}  // namespace rlhi
