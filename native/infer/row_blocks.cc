#include "infer/row_blocks.h"

#include "base/error.h"

namespace rlhi {

RowBlocks::RowBlocks(int64_t rows) : references_(static_cast<size_t>(rows / kRowBlock), 0) {
  for (auto block = static_cast<int32_t>(references_.size()) - 1; block >= 0; --block) free_.push_back(block);
}

std::vector<int32_t> RowBlocks::take(int64_t n) {
  check(n <= free(), ErrorCode::internal, n, " cache blocks were asked for, ", free(), " are free");
  std::vector<int32_t> blocks;
  for (int64_t i = 0; i < n; ++i) {
    blocks.push_back(free_.back());
    free_.pop_back();
    references_[static_cast<size_t>(blocks.back())] = 1;
  }
  return blocks;
}

void RowBlocks::share(const std::vector<int32_t>& blocks) {
  for (const int32_t block : blocks) ++references_[static_cast<size_t>(block)];
}

void RowBlocks::release(std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block)
    if (--references_[static_cast<size_t>(*block)] == 0) free_.push_back(*block);
  blocks.clear();
}

}  // namespace rlhi
