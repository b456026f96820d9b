// Attention forward by tiles of bf16: attention.cc's walk, with products of bf16 factors. Some blocks of keys are packed at once, and
// each part of the tile's columns passes them all, so that its sums stay in the first cache meanwhile.
#include "ops/cpu/attention_tiles.h"

#include <cstring>

namespace rlhi::ops {
namespace {

constexpr int kBlocksAtOnce = 8;     // of keys

class Forward {
 public:
  Forward(const Backend& backend, Scratch& scratch, const QueryTile& tile)
      : kernels_(backend.kernels), tiles_(*backend.tiles), products_(tiles_), tile_(tile), a_(tile.args), n_(a_.head_dim), dims_(round_up(n_, kTilePanel)),
        memory_(scratch, floats(dims_)) {
    const int64_t width = round_up(tile.columns, kTilePanel);
    queries_ = halves(width * dims_);
    gathered_ = halves(width * dims_);
    keys_ = halves(kBlocksAtOnce * kKeyBlock * dims_);
    values_ = halves(kBlocksAtOnce * kKeyBlock * dims_);
    probabilities_ = halves(kKeyBlock * kScoreStride);
    scores_ = memory_.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
    sums_ = memory_.take(parts() * kScoreStride * dims_);
    turned_ = memory_.take(kScoreStride * kMaxTileCols);
    position_ = memory_.take(width), running_max_ = memory_.take(width), running_sum_ = memory_.take(width);
    rescale_ = memory_.take(width);
  }

  void run() {
    const int64_t width = round_up(tile_.columns, kTilePanel);
    for (int c = 0; c < width; ++c) {
      position_[c] = static_cast<float>(tile_.position(std::min(c, tile_.columns - 1)));
      running_max_[c] = kNoScore;
      running_sum_[c] = 0;
    }
    gather_halves(tile_, a_.q, gathered_, dims_);
    queries_packed_ = products_.pack_right(queries_, gathered_, DType::bf16, dims_, true, width, dims_);
    std::memset(sums_, 0, static_cast<size_t>(parts() * kScoreStride * dims_) * sizeof(float));
    tile_.for_key_blocks([&](const KeyBlock& block) { pack(block); });
    run_blocks();
    store();
  }

  static int64_t floats(int64_t dims) {
    const int64_t halves = 2 * kTileColumns * dims + 2 * kBlocksAtOnce * kKeyBlock * dims + kKeyBlock * kScoreStride;
    return halves / 2 + kKeyBlock * kScoreStride + kTileColumns * dims + kScoreStride * kMaxTileCols + 4 * kTileColumns + 512;
  }

 private:
  bf16* halves(int64_t n) { return reinterpret_cast<bf16*>(memory_.take((n + 1) / 2)); }
  int64_t parts() const { return (tile_.columns + kScoreStride - 1) / kScoreStride; }
  float* sums_of_part(int first) const { return sums_ + first / kScoreStride * kScoreStride * dims_; }  // [dims][kScoreStride]

  void pack(const KeyBlock& block) {
    if (blocks_ == kBlocksAtOnce) run_blocks();
    const Tensor &k = a_.k, &v = a_.v;
    const int64_t col = tile_.kv_head * n_, place = blocks_ * kKeyBlock * dims_;
    PackedBlock& packed = packed_[blocks_++];
    packed.block = block;
    packed.keys = products_.pack_left(keys_ + place, row_pointer(k, block.row, col), DType::bf16, k.row_stride, false, block.packed, n_);
    packed.values = products_.pack_left(values_ + place, row_pointer(v, block.row, col), DType::bf16, v.row_stride, true, n_, block.packed);
  }

  // Those that are packed.
  void run_blocks() {
    for (int first = 0; first < tile_.columns; first += kScoreStride) {
      const QueryTile part = tile_.part(first);
      for (int i = 0; i < blocks_; ++i) {
        const PackedBlock& packed = packed_[i];
        const KeyBlock seen = part.seen(packed.block);
        if (seen.keys == 0) continue;
        products_.multiply(packed.keys, seen.keys, queries_packed_, first / kTilePanel, part.columns, packed.keys.steps, scores_, kScoreStride, false);
        soften(part, first, seen);
        add_to_part(part, first, seen, packed.values);
      }
    }
    blocks_ = 0;
  }

  void soften(const QueryTile& part, int first, const KeyBlock& seen) {
    AttentionBlock b;
    b.scores = scores_;
    b.scale = a_.scale;
    b.keys = seen.keys;
    b.columns = static_cast<int>(round_up(part.columns, kTilePanel));
    b.masked = seen.masked;
    b.first_position = static_cast<float>(seen.position);
    b.window = static_cast<float>(a_.window);
    b.position = position_ + first;
    b.running_max = running_max_ + first, b.running_sum = running_sum_ + first, b.rescale = rescale_ + first;
    AttentionFactors to;
    to.right = probabilities_, to.right_panel = steps_of(seen.keys) * kStepHalves;
    tiles_.attention_softmax(b, to);
  }

  // sums [head_dim][columns] = rescale sums + values^T probabilities
  void add_to_part(const QueryTile& part, int first, const KeyBlock& seen, const Panels& values) {
    float* sums = sums_of_part(first);
    const float* rescale = rescale_ + first;
    if (std::any_of(rescale, rescale + part.columns, [](float r) { return r != 1.0f; })) {
      kernels_.scale_columns(sums, kScoreStride, n_, rescale, part.columns);
    }
    const Panels p{probabilities_, steps_of(seen.keys)};
    products_.multiply(values, n_, p, 0, part.columns, p.steps, sums, kScoreStride, true);
  }

  // 1 where a query sees no key: its sums are zero.
  float share(int c) const { return running_sum_[c] > 0 ? 1.0f / running_sum_[c] : 1.0f; }

  void store() {
    for (int first = 0; first < tile_.columns; first += kScoreStride) {
      const QueryTile part = tile_.part(first);
      for (int c = first; c < first + part.columns; ++c) rescale_[c] = share(c);
      scatter_columns(kernels_, part, sums_of_part(first), rescale_ + first, turned_, a_.out);
    }
    for (int c = 0; c < tile_.columns; ++c) store_lse(c);
  }

  void store_lse(int c) {
    if (!a_.lse) return;
    reinterpret_cast<float*>(row_pointer(a_.lse, tile_.row(c)))[tile_.head(c)] = log_sum_exp(running_max_[c], running_sum_[c]);
  }

  const Kernels& kernels_;
  const TileKernels& tiles_;
  const TileProducts products_;
  const QueryTile& tile_;
  const AttentionArgs& a_;
  int64_t n_, dims_;                 // head_dim, and rounded up to whole panels
  TileMemory memory_;
  struct PackedBlock {
    KeyBlock block;
    Panels keys, values;
  };
  PackedBlock packed_[kBlocksAtOnce];
  int blocks_ = 0;                   // packed
  bf16 *queries_, *gathered_, *keys_, *values_, *probabilities_;
  float *scores_, *sums_, *turned_, *position_, *running_max_, *running_sum_, *rescale_;
  Panels queries_packed_;
};

}  // namespace

void attention_by_tiles(Backend* backend, Scratch& scratch, const QueryTile& tile) {
  backend->tiles->begin();
  Forward(*backend, scratch, tile).run();
  backend->tiles->end();
}

}  // namespace rlhi::ops
