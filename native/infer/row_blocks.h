// Who owns which rows of the key/value cache. Rows are handed out in blocks of kRowBlock positions with reference counts:
// a prompt's blocks are shared by its samples, and those of a common beginning by the prompts that begin so. When the last
// holder lets go, a block that holds a prompt's beginning is idle: it can be found again until its rows are needed, the longest
// idle first.
#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "ops/ops.h"

namespace rlhi {

// Prompt and answer are each cut into blocks from their own beginning, whatever is free in the cache, and a block is one key
// span: attention sums spans in order, so a sample's bits cannot depend on where its rows happen to lie.
constexpr int64_t kRowBlock = ops::kKeyBlock;

inline int64_t blocks_for(int64_t tokens) { return (tokens + kRowBlock - 1) / kRowBlock; }

class RowBlocks {
 public:
  explicit RowBlocks(int64_t rows);            // rows / kRowBlock blocks
  int64_t total() const { return static_cast<int64_t>(references_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size() + idle_.size()); }  // idle ones included
  int64_t idle() const { return static_cast<int64_t>(idle_.size()); }
  // n blocks with one reference each. Throws internal where fewer are free: the caller asks free() first.
  std::vector<int32_t> take(int64_t n);
  void share(const std::vector<int32_t>& blocks);    // one reference more on each
  void release(std::vector<int32_t>& blocks);        // one less on each; those without any are free or idle. Empties `blocks`.

  // Whole blocks, in use or idle, that hold the beginning of `prompt`, but never its last token, whose hidden state must be computed.
  std::vector<int32_t> find_beginning(const std::vector<int32_t>& prompt) const;
  int64_t idle_among(const std::vector<int32_t>& blocks) const;
  // `blocks` are the prompt's: its whole blocks can be found until their rows are taken for something else.
  void remember(const std::vector<int32_t>& prompt, const std::vector<int32_t>& blocks);

 private:
  // The block before (-1: none) and a block's tokens. Whoever holds a block holds those before it, and they are let go last block
  // first, so a block is never idle for longer than one that follows it: a key's block lives as long as the key.
  using Key = std::pair<int32_t, std::vector<int32_t>>;
  static Key key_of(const std::vector<int32_t>& prompt, std::size_t index, int32_t before);
  int32_t take_one();

  std::vector<int32_t> references_;
  std::map<Key, int32_t> remembered_;
  std::vector<std::map<Key, int32_t>::iterator> entries_;  // by block; end() where it is not remembered
  std::list<int32_t> idle_;                                // the longest idle first
  std::vector<std::list<int32_t>::iterator> idle_at_;      // by block; end() where it is not idle
  std::vector<int32_t> free_;                  // the most recently freed is taken first: its memory is warm
};

}  // namespace rlhi
