#include "infer/row_blocks.h"

#include "base/error.h"

namespace rlhi {

RowBlocks::RowBlocks(int64_t rows)
    : references_(static_cast<size_t>(rows / kRowBlock), 0), entries_(references_.size(), remembered_.end()), idle_at_(references_.size(), idle_.end()) {
  for (auto block = static_cast<int32_t>(references_.size()) - 1; block >= 0; --block) free_.push_back(block);
}

int32_t RowBlocks::take_one() {
  int32_t block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    block = idle_.front();
    idle_.pop_front();
    const auto i = static_cast<size_t>(block);
    idle_at_[i] = idle_.end();
    remembered_.erase(entries_[i]);
    entries_[i] = remembered_.end();
  }
  references_[static_cast<size_t>(block)] = 1;
  return block;
}

std::vector<int32_t> RowBlocks::take(int64_t n) {
  check(n <= free(), ErrorCode::internal, n, " cache blocks were asked for, ", free(), " are free");
  std::vector<int32_t> blocks;
  for (int64_t i = 0; i < n; ++i) blocks.push_back(take_one());
  return blocks;
}

void RowBlocks::share(const std::vector<int32_t>& blocks) {
  for (const int32_t block : blocks) {
    const auto i = static_cast<size_t>(block);
    ++references_[i];
    if (idle_at_[i] == idle_.end()) continue;
    idle_.erase(idle_at_[i]);
    idle_at_[i] = idle_.end();
  }
}

int64_t RowBlocks::idle_among(const std::vector<int32_t>& blocks) const {
  int64_t n = 0;
  for (const int32_t block : blocks) n += idle_at_[static_cast<size_t>(block)] != idle_.end() ? 1 : 0;
  return n;
}

void RowBlocks::release(std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    const auto i = static_cast<size_t>(*block);
    if (--references_[i] > 0) continue;
    if (entries_[i] == remembered_.end()) free_.push_back(*block);
    else idle_at_[i] = idle_.insert(idle_.end(), *block);
  }
  blocks.clear();
}

RowBlocks::Key RowBlocks::key_of(const std::vector<int32_t>& prompt, size_t index, int32_t before) {
  const auto begin = prompt.begin() + static_cast<std::ptrdiff_t>(index) * kRowBlock;
  return {before, std::vector<int32_t>(begin, begin + kRowBlock)};
}

std::vector<int32_t> RowBlocks::find_beginning(const std::vector<int32_t>& prompt) const {
  std::vector<int32_t> blocks;
  const size_t whole = (prompt.size() - 1) / static_cast<size_t>(kRowBlock);
  while (blocks.size() < whole) {
    const auto found = remembered_.find(key_of(prompt, blocks.size(), blocks.empty() ? -1 : blocks.back()));
    if (found == remembered_.end()) break;
    blocks.push_back(found->second);
  }
  return blocks;
}

void RowBlocks::remember(const std::vector<int32_t>& prompt, const std::vector<int32_t>& blocks) {
  for (size_t i = 0; i < prompt.size() / static_cast<size_t>(kRowBlock); ++i) {
    const auto [entry, added] = remembered_.try_emplace(key_of(prompt, i, i == 0 ? -1 : blocks[i - 1]), blocks[i]);
    if (added) entries_[static_cast<size_t>(blocks[i])] = entry;
  }
}

}  // namespace rlhi
