// rlhi_native_tests [FILTER]: runs every registered test whose name contains FILTER.
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>

#include "test/check.h"

namespace rlhi::test {
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
std::string shared_dir() {
  const char* set = std::getenv("RLHI_SHARED");
  const std::string dir = set ? set : "../shared";
  struct stat s;
  return stat((dir + "/oracles").c_str(), &s) == 0 ? dir : "";
}
}  // namespace rlhi::test

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0, failed = 0, skipped = 0;
  for (const auto& c : rlhi::test::cases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    try {
      c.run();
      ++passed;
      std::printf("ok    %s\n", c.name.c_str());
    } catch (const rlhi::test::Skip& s) {
      ++skipped;
      std::printf("skip  %s: %s\n", c.name.c_str(), s.why.c_str());
    } catch (const std::exception& e) {
      ++failed;
      std::printf("FAIL  %s: %s\n", c.name.c_str(), e.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed > 0 || passed == 0 ? 1 : 0;
}
