// What forward and backward attention share: a tile of queries, and a walk over the blocks of keys it sees.
//
// The queries of one segment that read one key/value head are columns: column c is query c / group, head c % group of
// the group. Scores are kept transposed, [keys][columns], so that softmax runs down the columns with a query in every
// lane, and so that the products that follow can read them as a packed factor. A column's arithmetic does not depend on
// which columns lie beside it, and key blocks are cut from the start of their span: that makes rows batch-invariant.
#pragma once
#include <cmath>

#include "ops/cpu/backend.h"

namespace rlhi::ops {

constexpr int kTileColumns = 192;  // of a tile: its keys are packed once for all of them; a multiple of kScoreStride

struct KeyBlock {
  int64_t span, offset;  // which span of the call, and where in it
  int64_t row;           // of k and v
  int32_t position;      // of the first key
  int packed;            // keys of the block as the whole tile sees it
  int keys;              // the first of them, up to the last that some column sees
  bool masked;           // some column does not see some of these

  // As queries at positions `oldest` to `newest` see it; `keys` is 0 where none of them sees any.
  KeyBlock seen_by(int64_t oldest, int64_t newest, int64_t window) const {
    KeyBlock block = *this;
    const int64_t begin = position;
    block.keys = static_cast<int>(std::clamp<int64_t>(newest + 1 - begin, 0, keys));
    const int64_t last = begin + block.keys - 1;
    if (window > 0 && last <= oldest - window) block.keys = 0;
    block.masked = last > oldest || (window > 0 && begin <= newest - window);
    return block;
  }
};

// Columns [first, first + columns) of one segment and one key/value head.
struct QueryTile {
  const AttentionArgs& args;
  const QuerySegment& segment;
  int kv_head, group;
  int64_t first;
  int columns;

  int64_t row(int column) const { return segment.row + (first + column) / group; }
  int64_t head(int column) const { return static_cast<int64_t>(kv_head) * group + (first + column) % group; }
  int32_t position(int column) const { return segment.position + static_cast<int32_t>((first + column) / group); }

  // Calls f(KeyBlock) for every block of keys that some column sees, in order.
  template <class F>
  void for_key_blocks(const F& f) const {
    for (int s = 0; s < segment.n_spans; ++s) {
      const KeySpan& span = args.spans[segment.first_span + s];
      for (int32_t at = 0; at < span.length; at += kKeyBlock) {
        const int keys = std::min(kKeyBlock, span.length - at);
        KeyBlock block = seen(KeyBlock{segment.first_span + s, at, span.row + at, span.position + at, keys, keys, false});
        block.packed = block.keys;
        if (block.keys > 0) f(block);
      }
    }
  }

  // Calls f(part, first column of the part, block as the part sees it) for the parts of at most kScoreStride columns.
  template <class F>
  void for_parts(const KeyBlock& block, const F& f) const {
    for (int c = 0; c < columns; c += kScoreStride) {
      const QueryTile part = this->part(c);
      const KeyBlock of_part = part.seen(block);
      if (of_part.keys > 0) f(part, c, of_part);
    }
  }

  QueryTile part(int column) const { return {args, segment, kv_head, group, first + column, std::min(kScoreStride, columns - column)}; }
  KeyBlock seen(const KeyBlock& block) const { return block.seen_by(position(0), position(columns - 1), args.window); }
};

// Memory of one tile, cut from one piece of a thread's scratch.
class TileMemory {
 public:
  TileMemory(Scratch& scratch, int64_t floats) : next_(scratch.floats(floats)), end_(next_ + floats) {}
  float* take(int64_t floats) {
    float* p = next_;
    next_ += round_up(floats, 16);
    check(next_ <= end_, ErrorCode::internal, "attention scratch is too small");
    return p;
  }

 private:
  float* next_;
  float* end_;
};

inline float log_sum_exp(float maximum, float sum) {
  return static_cast<float>(static_cast<double>(maximum) + std::log(static_cast<double>(sum)));
}

// The columns' rows of t (q, dout), each head_dim floats times `scale`, `stride` apart.
void gather_columns(const Kernels& kernels, const QueryTile& tile, const Tensor& t, float scale, float* to, int64_t stride);
// Those rows as column panels [head_dim][nr], the last one padded.
void pack_columns_of(const Kernels& kernels, const QueryTile& tile, const float* rows, int64_t stride, float* to);
// A key block's rows of t (k, v) as row panels [head_dim][height].
void pack_keys(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, float* to);
// A key block's rows as floats, `stride` apart; returns t's own rows (and their stride) where those can be read in whole vectors.
const float* key_rows(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, float* to, int64_t& stride);

// For a part of a tile (for_parts); `columns`, `sums` and so on begin at its first column.
// scores[key][column] = keys . columns
void multiply_keys(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* keys, const float* columns,
                   float* scores);
// The same for few columns (a decoding step has one query): the keys are the vectors' lanes instead of the columns, so that
// no lane is empty. `queries` is one row panel [head_dim][columns]. Same bits: the sums have the same order.
// scratch holds kKeyBlock * (head_dim + columns) floats.
constexpr int kFewColumns = 8;
inline bool has_few_columns(const Kernels& kernels, const QueryTile& tile) { return tile.columns <= std::min(kFewColumns, kernels.mr); }
void multiply_few(const Kernels& kernels, const QueryTile& tile, const KeyBlock& block, const Tensor& t, const float* queries,
                  float* scratch, float* scores);
// sums[column][head_dim] += scores^T rows
void add_to_columns(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* scores, const float* rows,
                    int64_t stride, float* sums, int64_t sums_stride);
// sums[key][head_dim] += scores columns
void add_to_keys(const Kernels& kernels, const QueryTile& part, const KeyBlock& block, const float* scores, const float* columns,
                 int64_t stride, float* sums, int64_t sums_stride);

}  // namespace rlhi::ops
