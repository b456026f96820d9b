#include "ops/cpu/attention_decode.h"

#include <cstring>

namespace rlhi::ops {
namespace {

constexpr int64_t kMaxColumns = kTileColumns;  // of a group
constexpr int kLine = 64;                      // bytes

const KeySpan& span_of(const AttentionArgs& a, const QuerySegment& s, int i) { return a.spans[s.first_span + i]; }

bool same_span(const KeySpan& a, const KeySpan& b) { return a.row == b.row && a.length == b.length && a.position == b.position; }

int common_spans(const AttentionArgs& a, const QuerySegment& s, const QuerySegment& t) {
  int n = 0;
  while (n < std::min(s.n_spans, t.n_spans) && same_span(span_of(a, s, n), span_of(a, t, n))) ++n;
  return n;
}

// Queries on their way through the keys, `count` of them in rows of `dims` sums. Arrays reach to a whole panel.
struct Columns {
  Panels queries;                                                 // right factor
  float *sums, *position, *running_max, *running_sum, *rescale;
  int count = 0;
};

class Decode {
 public:
  Decode(const Backend& backend, Scratch& scratch, const AttentionArgs& args, const DecodeGroup& group)
      : kernels_(backend.kernels), tiles_(*backend.tiles), products_(tiles_), a_(args), group_(group), heads_(a_.n_heads / a_.n_kv_heads), n_(a_.head_dim),
        dims_(round_up(n_, kTilePanel)), memory_(scratch, floats(dims_, columns_of_all())) {
    keys_ = halves(kKeyBlock * dims_);  // whole tiles of rows
    values_ = halves(kKeyBlock * dims_);
    probabilities_ = halves(kKeyBlock * kScoreStride);
    scores_ = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    own_ = take_columns(kTilePanel);
    if (group_.shared > 0) {
      gathered_ = halves(round_up(columns_of_all(), kTilePanel) * dims_);
      all_ = take_columns(columns_of_all());
    }
  }

  void run(int kv_head) {
    kv_head_ = kv_head;
    if (group_.shared > 0) read_shared();
    for (int s = 0; s < group_.count; ++s) read_own(s);
  }

 private:
  static int64_t floats(int64_t dims, int64_t all) {
    const int64_t columns = round_up(all, kTilePanel) + kTilePanel;
    const int64_t halves = 2 * kKeyBlock * dims + kKeyBlock * kScoreStride + 2 * columns * dims;
    return halves / 2 + kKeyBlock * kScoreStride + columns * (dims + 4) + 1024;
  }
  int64_t columns_of_all() const { return static_cast<int64_t>(group_.count) * heads_; }
  const QuerySegment& segment(int s) const { return a_.segments[group_.first + s]; }
  bf16* halves(int64_t n) { return reinterpret_cast<bf16*>(memory_.take((n + 1) / 2)); }

  Columns take_columns(int64_t count) {
    const int64_t width = round_up(count, kTilePanel);
    Columns c;
    c.queries.data = halves(width * dims_);
    c.sums = memory_.take(width * dims_);
    for (float** p : {&c.position, &c.running_max, &c.running_sum, &c.rescale}) *p = memory_.take(width);
    return c;
  }

  // Columns whose queries have seen nothing; those up to a whole panel repeat the last one's position.
  template <class F>
  void begin(Columns& c, int count, const F& position) {
    c.count = count;
    const int64_t width = round_up(count, kTilePanel);
    for (int i = 0; i < width; ++i) {
      c.position[i] = static_cast<float>(position(std::min(i, count - 1)));
      c.running_max[i] = kNoScore;
      c.running_sum[i] = 0;
    }
    std::memset(c.sums, 0, static_cast<size_t>(width * dims_) * sizeof(float));
  }

  const char* queries_of(int s) const { return row_pointer(a_.q, segment(s).row, static_cast<int64_t>(kv_head_) * heads_ * n_); }

  void read_shared() {
    begin(all_, static_cast<int>(columns_of_all()), [&](int c) { return segment(c / heads_).position; });
    for (int s = 0; s < group_.count; ++s) std::memcpy(gathered_ + s * heads_ * n_, queries_of(s), static_cast<size_t>(heads_ * n_) * sizeof(bf16));
    all_.queries = products_.pack_right(all_.queries.data, gathered_, DType::bf16, n_, true, all_.count, n_);
    int32_t oldest = segment(0).position, newest = oldest;
    for (int s = 1; s < group_.count; ++s) oldest = std::min(oldest, segment(s).position), newest = std::max(newest, segment(s).position);
    for (int i = 0; i < group_.shared; ++i) read_span(all_, span_of(a_, segment(0), i), oldest, newest);
  }

  // A segment's own keys, from where the shared ones left its queries.
  void read_own(int s) {
    const int32_t position = segment(s).position;
    begin(own_, heads_, [&](int) { return position; });
    if (group_.shared > 0) {
      const int at = s * heads_;
      std::memcpy(own_.sums, all_.sums + at * dims_, static_cast<size_t>(heads_ * dims_) * sizeof(float));
      std::memcpy(own_.running_max, all_.running_max + at, static_cast<size_t>(heads_) * sizeof(float));
      std::memcpy(own_.running_sum, all_.running_sum + at, static_cast<size_t>(heads_) * sizeof(float));
    }
    own_.queries = products_.pack_right(own_.queries.data, queries_of(s), DType::bf16, n_, true, heads_, n_);
    for (int i = group_.shared; i < segment(s).n_spans; ++i) read_span(own_, span_of(a_, segment(s), i), position, position);
    store(s);
  }

  void read_span(Columns& columns, const KeySpan& span, int64_t oldest, int64_t newest) {
    for (int32_t at = 0; at < span.length; at += kKeyBlock) {
      const int keys = std::min(kKeyBlock, span.length - at);
      const KeyBlock block = KeyBlock{0, at, span.row + at, span.position + at, keys, keys, false}.seen_by(oldest, newest, a_.window);
      if (block.keys > 0) read_block(columns, block);
    }
  }

  void read_block(Columns& columns, const KeyBlock& block) {
    const char* v = row_pointer(a_.v, block.row, static_cast<int64_t>(kv_head_) * n_);
    prefetch_rows(v, a_.v.row_stride * dtype_size(a_.v.dtype), block.keys);
    const Rows keys = key_rows_of(block);
    const Panels values = products_.pack_right(values_, v, DType::bf16, a_.v.row_stride, false, n_, block.keys);
    for (int first = 0; first < columns.count; first += kScoreStride) {
      const int count = std::min(kScoreStride, columns.count - first);
      for (int c = 0; c < count; c += kTileEdge) multiply_keys(keys, block.keys, columns.queries, first + c, scores_ + c);
      soften(columns, first, count, block);
      for (int c = first; c < first + count; ++c) {
        if (columns.rescale[c] != 1.0f) kernels_.scale(columns.sums + c * dims_, columns.rescale[c], n_);
      }
      for (int c = 0; c < count; c += kTileEdge) add_values(scores_ + c, block.keys, values, columns.sums + (first + c) * dims_);
    }
  }

  struct Rows {
    const char* data;
    int64_t stride;                    // bytes
  };
  // The block's keys where they lie if tiles of them can be read there, else a copy.
  Rows key_rows_of(const KeyBlock& block) const {
    const char* k = row_pointer(a_.k, block.row, static_cast<int64_t>(kv_head_) * n_);
    const int64_t stride = a_.k.row_stride * static_cast<int64_t>(sizeof(bf16)), copied = dims_ * static_cast<int64_t>(sizeof(bf16));
    if (n_ % kTileStep == 0 && block.row + round_up(block.keys, kTileEdge) <= a_.k.rows) return {k, stride};
    for (int i = 0; i < block.keys; ++i) {
      std::memcpy(keys_ + i * dims_, k + i * stride, static_cast<size_t>(n_) * sizeof(bf16));
      std::memset(keys_ + i * dims_ + n_, 0, static_cast<size_t>(dims_ - n_) * sizeof(bf16));
    }
    return {reinterpret_cast<const char*>(keys_), copied};
  }

  // scores [keys][16 columns] = keys . queries; those of rows up to a whole tile are not scores
  void multiply_keys(const Rows& keys, int count, const Panels& queries, int column, float* scores) const {
    TileStrip t;
    t.a = keys.data, t.a_stride = keys.stride;
    t.b = queries.panel(column / kTilePanel) + column % kTilePanel / kTileEdge * (kStepHalves / 2);
    t.steps = steps_of(n_);
    t.tiles = (count + kTileEdge - 1) / kTileEdge;
    t.sums = scores, t.sums_stride = kScoreStride;
    tiles_.multiply_tall(t);
  }

  // sums [16 columns][head_dim] += scores^T values
  void add_values(const float* scores, int keys, const Panels& values, float* sums) const {
    const Panels p = products_.pack_left(probabilities_, scores, DType::f32, kScoreStride, true, kTileEdge, keys);
    for (int64_t d = 0; d < dims_; d += 2 * kTilePanel) {
      TileStrip t;
      t.a = p.data;
      t.b = values.panel(d / kTilePanel);
      t.b_panel = values.steps * kStepBytes;
      t.steps = p.steps;
      t.tiles = static_cast<int>(std::min<int64_t>(dims_ - d, 2 * kTilePanel) / kTileEdge);
      t.add = true;
      t.sums = sums + d, t.sums_stride = dims_;
      tiles_.multiply_wide(t);
    }
  }

  void prefetch_rows(const char* rows, int64_t stride, int count) const {
    for (int i = 0; i < count; ++i) {
      for (int64_t at = 0; at < n_ * static_cast<int64_t>(sizeof(bf16)); at += kLine) __builtin_prefetch(rows + i * stride + at);
    }
  }

  void soften(const Columns& columns, int first, int count, const KeyBlock& block) {
    AttentionBlock b;
    b.scores = scores_;
    b.scale = a_.scale;
    b.keys = block.keys;
    b.columns = static_cast<int>(round_up(count, kTileEdge));
    b.masked = block.masked;
    b.first_position = static_cast<float>(block.position);
    b.window = static_cast<float>(a_.window);
    b.position = columns.position + first;
    b.running_max = columns.running_max + first, b.running_sum = columns.running_sum + first, b.rescale = columns.rescale + first;
    tiles_.attention_softmax(b, AttentionFactors());
  }

  void store(int s) {
    const QuerySegment& q = segment(s);
    for (int c = 0; c < heads_; ++c) {
      const int64_t head = static_cast<int64_t>(kv_head_) * heads_ + c;
      const float sum = own_.running_sum[c];  // 0 where a query sees no key: its sums are zero
      kernels_.convert(row_pointer(a_.out, q.row, head * n_), a_.out.dtype, own_.sums + c * dims_, DType::f32, n_, sum > 0 ? 1.0f / sum : 1.0f);
      if (a_.lse) reinterpret_cast<float*>(row_pointer(a_.lse, q.row))[head] = log_sum_exp(own_.running_max[c], sum);
    }
  }

  const Kernels& kernels_;
  const TileKernels& tiles_;
  const TileProducts products_;
  const AttentionArgs& a_;
  const DecodeGroup& group_;
  int heads_;                        // query heads a key/value head
  int64_t n_, dims_;                 // head_dim, and rounded up to whole panels
  TileMemory memory_;
  int kv_head_ = 0;
  bf16 *keys_, *values_, *probabilities_, *gathered_ = nullptr;
  float* scores_;
  Columns own_, all_;
};

}  // namespace

DecodeGroup group_at(const AttentionArgs& a, int64_t first, int64_t limit) {
  DecodeGroup group{first, 1, 0};
  limit = std::min(limit, kMaxColumns / (a.n_heads / a.n_kv_heads));
  for (int64_t i = first + 1; i < a.n_segments && group.count < limit && decodes(a, a.segments[i]); ++i) {
    const int common = common_spans(a, a.segments[first], a.segments[i]);
    if (common == 0 || (group.count > 1 && common < group.shared)) break;
    if (group.count == 1) group.shared = common;
    ++group.count;
  }
  return group;
}

void attention_decode_by_tiles(Backend* backend, Scratch& scratch, const AttentionArgs& args, const DecodeGroup& group, int kv_head, int kv_heads) {
  backend->tiles->begin();
  Decode decode(*backend, scratch, args, group);
  for (int g = kv_head; g < kv_head + kv_heads; ++g) decode.run(g);
  backend->tiles->end();
}

}  // namespace rlhi::ops
