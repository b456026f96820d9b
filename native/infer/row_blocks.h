// Who owns which rows of the key/value cache. Rows are handed out in blocks of kRowBlock positions with reference counts:
// a prompt's blocks are shared by its samples and come back when the last of them lets go.
#pragma once
#include <cstdint>
#include <vector>

namespace rlhi {

// Prompt and answer are each cut into blocks from their own beginning, whatever is free in the cache, and a block is one key
// span: attention sums spans in order, so a sample's bits cannot depend on where its rows happen to lie.
constexpr int64_t kRowBlock = 64;

inline int64_t blocks_for(int64_t tokens) { return (tokens + kRowBlock - 1) / kRowBlock; }

class RowBlocks {
 public:
  explicit RowBlocks(int64_t rows);            // rows / kRowBlock blocks
  int64_t total() const { return static_cast<int64_t>(references_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  // n blocks with one reference each. Throws internal where fewer are free: the caller asks free() first.
  std::vector<int32_t> take(int64_t n);
  void share(const std::vector<int32_t>& blocks);    // one reference more on each
  void release(std::vector<int32_t>& blocks);        // one less on each; those without any are free again. Empties `blocks`.

 private:
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;                  // the most recently freed is taken first: its memory is warm
};

}  // namespace rlhi
