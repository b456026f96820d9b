// The matrix product by tiles of bf16: what gemm.cc is for f32, for products with a bf16 factor (the other one is rounded to
// bf16 as it is packed).
//
// The sum over k of one element is made in order, in one register, by blocks of k that depend on k alone; blocks are added in f32:
// (((start + block 0) + block 1) + ...), start being c when accumulating, or nothing. So neither tasks nor the rows beside it change
// an element's bits. A block's sums are added to those before while the next are multiplied.
//
// A right panel's block of k (at most 36 KB) stays in the first cache while the task's rows of it stream past from the second,
// where the sums stay as well while k has further blocks. Caches beyond the second are slow where many cores share them: tasks are
// cut so that little comes from there (parts_of).
#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kStepBytes = 2048;                      // of a panel's step of k
constexpr int64_t kBlockSteps = 18;                       // of k, at most, that are summed at once
constexpr int64_t kRowsBytes = int64_t{640} << 10;        // of a task's rows, within a block of k
constexpr int64_t kSumsBytes = int64_t{896} << 10;        // of a task's sums where k has several blocks
constexpr int64_t kSums = int64_t{kTilePanel} * kTilePanel;  // floats of a block of sums
constexpr int64_t kColumnsBytes = int64_t{96} << 20;      // of columns packed at once
constexpr int64_t kHeadColumnsBytes = int64_t{4} << 20;   // where there is more to do with the sums than to write them
constexpr int64_t kAliasBytes = 2048;
constexpr int64_t kAhead = 4096;                          // bytes that a right panel is prefetched where it is read once

struct Product {
  const TileKernels& tiles;
  const GemmArgs& args;
  int64_t m, n, k, steps;
  const float* bias = nullptr;
  const char* rows = nullptr;      // packed, or null: each task packs its own
  const char* columns = nullptr;   // packed, from the round's first column on, or null: each task packs its own
  bool stream = false;
  const HeadSink* head = nullptr;  // where the sums are logits that serve it
  // Where c is SwiGLU's, column panels are taken in pairs, one of gate and its one of up: how many gates b has, and how many of them
  // `columns` has, before their ups.
  int64_t gate_panels = 0, packed_gates = 0;

  bool reduces() const { return head && head->maxima; }  // no logits are written
  // Column panels that one task takes together.
  int64_t together() const { return gate_panels > 0 ? 2 : head ? kHeadPanels : 1; }
  // Of a round that begins at `first_col`: where the j-th panel in the order of tasks lies in `columns`, and its first column in b.
  int64_t packed_panel(int64_t j) const { return gate_panels == 0 ? j : j / 2 + (j % 2 == 0 ? 0 : packed_gates); }
  int64_t column_of(int64_t first_col, int64_t j) const {
    return first_col + (gate_panels == 0 ? j : j / 2 + (j % 2 == 0 ? 0 : gate_panels)) * kTilePanel;
  }
  // Whether a task packs a column panel share by share while it multiplies the one before. Rows a power of two apart have few places in a
  // cache, where a whole block of lines would push itself out before it is packed; else two panels in the first cache are one too many.
  bool shares() const { return args.b.row_stride * dtype_size(args.b.dtype) % kAliasBytes == 0; }
  int64_t row_panels() const { return (m + kTilePanel - 1) / kTilePanel; }
  int64_t panel_bytes() const { return steps * kStepBytes; }
  int64_t blocks() const { return std::max<int64_t>(1, (steps + kBlockSteps - 1) / kBlockSteps); }
  int64_t block_begin(int64_t block) const { return block * steps / blocks(); }
  int64_t block_steps() const { return (steps + blocks() - 1) / blocks(); }  // of the longest
  int panel_rows(int64_t panel) const { return static_cast<int>(std::min<int64_t>(kTilePanel, m - panel * kTilePanel)); }
  int panel_cols(int64_t first_col) const { return static_cast<int>(std::min<int64_t>(kTilePanel, n - first_col)); }
  int row_tiles(int64_t panel) const { return panel_rows(panel) > kTileEdge ? 2 : 1; }

  // How many panels a task packs: some tens of KB of them, or where they lie side by side in the matrix several, if there are enough.
  int64_t panels_a_task(int64_t panels, int64_t threads, bool side_by_side) const {
    const int64_t some = std::max<int64_t>(1, (int64_t{64} << 10) / std::max<int64_t>(1, panel_bytes()));
    return side_by_side ? std::max(some, std::min<int64_t>(8, panels / (4 * threads))) : some;
  }

  // Steps [begin, end) of the row panels [r0, r1): panel r0 begins `to`, with its step `from`, the others follow `stride` bytes apart.
  // Where a panel's rows are columns of the matrix, a row of the matrix holds a line of each: then a step of all panels is packed
  // before the next.
  void pack_row_panels(char* to, int64_t stride, int64_t from, int64_t r0, int64_t r1, int64_t begin, int64_t end) const {
    const int64_t together = args.form == GemmForm::tn ? 1 : end - begin;
    for (int64_t step = begin; step < end; step += together) {
      for (int64_t i = r0; i < r1; ++i) pack_rows(to + (i - r0) * stride + (step - from) * row_tiles(i) * (kStepBytes / 2), i, step, step + together);
    }
  }
  // The same for whole column panels from `col` on.
  void pack_column_panels(char* to, int64_t col, int64_t panels, int64_t begin, int64_t end) const {
    const int64_t together = args.form == GemmForm::nt ? end - begin : 1;
    for (int64_t step = begin; step < end; step += together) {
      for (int64_t j = 0; j < panels; ++j) pack_columns(to + j * panel_bytes() + step * kStepBytes, col + j * kTilePanel, step, step + together);
    }
  }

  // Steps [begin, end) of a panel; `to` is where its step `begin` goes.
  void pack_rows(char* to, int64_t panel, int64_t begin, int64_t end) const {
    const bool turned = args.form == GemmForm::tn;
    const int64_t row = panel * kTilePanel, p = begin * kTileStep, length = std::min(k, end * kTileStep) - p;
    const char* from = turned ? row_pointer(args.a, p, row) : row_pointer(args.a, row, p);
    tiles.pack_rows(to, from, args.a.dtype, args.a.row_stride, turned, panel_rows(panel), length);
  }
  void pack_columns(char* to, int64_t col, int64_t begin, int64_t end) const {
    const bool turned = args.form == GemmForm::nt;
    const int64_t p = begin * kTileStep, length = std::min(k, end * kTileStep) - p;
    const char* from = turned ? row_pointer(args.b, col, p) : row_pointer(args.b, p, col);
    tiles.pack_columns(to, from, args.b.dtype, args.b.row_stride, turned, panel_cols(col), length);
  }
};

// Row panels [r0, r1) by the column panels [c0, c1) of a round that begins at `first_col`.
class TileTask {
 public:
  TileTask(const Product& p, Scratch& scratch, int64_t r0, int64_t r1, int64_t c0, int64_t c1, int64_t first_col)
      : p_(p), r0_(r0), r1_(r1), c0_(c0), c1_(c1), first_col_(first_col) {
    const bool keeps = p.blocks() > 1 && (p.args.c.dtype != DType::f32 || p.stream || p.gate_panels > 0 || p.head);
    const int64_t gates = p.gate_panels > 0 ? (r1 - r0) * kSums * dtype_size(p.args.c.dtype) : 0;
    const int64_t lanes = p.reduces() ? (r1 - r0) * kTilePanel * 2 * kTileEdge * 4 : 0;
    const int64_t sums = 2 * kSums * 4, kept = keeps ? (r1 - r0) * (c1 - c0) * kSums * 4 : 0;
    const int64_t own_rows = p.rows ? 0 : (r1 - r0) * p.block_steps() * kStepBytes, own_columns = p.columns ? 0 : (p.shares() ? 2 : 1) * kBlockSteps * kStepBytes;
    char* memory = static_cast<char*>(scratch.bytes(static_cast<size_t>(sums + kept + own_rows + own_columns + gates + lanes)));
    sums_ = reinterpret_cast<float*>(memory);
    kept_ = keeps ? reinterpret_cast<float*>(memory + sums) : nullptr;
    rows_ = p.rows ? nullptr : memory + sums + kept;
    columns_ = p.columns ? nullptr : memory + sums + kept + own_rows;
    next_columns_ = p.columns || !p.shares() ? nullptr : columns_ + kBlockSteps * kStepBytes;
    gates_ = memory + sums + kept + own_rows + own_columns;
    lanes_ = reinterpret_cast<float*>(gates_ + gates);
    if (p.reduces()) clear_lanes();
  }

  void run() {
    p_.tiles.begin();
    for (int64_t block = 0; block < p_.blocks(); ++block) {
      if (rows_) pack_own_rows(block);
      for (int64_t j = c0_; j < c1_; ++j) {
        run_panel(block, j);
        const bool group_ends = (j + 1) % kHeadPanels == 0 || j + 1 == c1_;
        if (p_.reduces() && group_ends && block + 1 == p_.blocks()) end_group(j / kHeadPanels);
      }
    }
    finish_last();
    p_.tiles.end();
  }

 private:
  void finish_last() {
    if (finish_.sums) p_.tiles.finish(finish_);
    finish_.sums = nullptr;
  }

  // Maxima and sums of row i of a panel, a lane each.
  struct Lanes {
    float *maxima, *sums;
  };
  Lanes lanes_of(int64_t panel, int64_t row) const {
    float* maxima = lanes_ + ((panel - r0_) * kTilePanel + row) * kTileEdge;
    return {maxima, maxima + (r1_ - r0_) * kTilePanel * kTileEdge};
  }
  void clear_lanes() {
    const int64_t n = (r1_ - r0_) * kTilePanel * kTileEdge;
    std::fill(lanes_, lanes_ + n, kNoScore);
    std::fill(lanes_ + n, lanes_ + 2 * n, 0.0f);
  }
  // What a group of columns comes to, for every row.
  void end_group(int64_t group) {
    finish_last();
    const HeadSink& head = *p_.head;
    for (int64_t panel = r0_; panel < r1_; ++panel) {
      for (int64_t row = 0; row < p_.panel_rows(panel); ++row) {
        const Lanes lanes = lanes_of(panel, row);
        const int64_t at = (panel * kTilePanel + row) * head.groups + first_col_ / (kHeadPanels * kTilePanel) + group;
        p_.tiles.combine_exponentials(lanes.maxima, lanes.sums, kTileEdge, head.maxima + at, head.sums + at);
      }
    }
    clear_lanes();
  }

  void pack_own_rows(int64_t block) {
    const int64_t begin = p_.block_begin(block), end = p_.block_begin(block + 1);
    p_.pack_row_panels(rows_, (end - begin) * kStepBytes, begin, r0_, r1_, begin, end);
  }

  void run_panel(int64_t block, int64_t j) {
    const int64_t begin = p_.block_begin(block), end = p_.block_begin(block + 1);
    const Panel next = panel_after(block, j);
    TileProduct t;
    t.steps = end - begin;
    if (columns_) {
      if (!next_columns_ || (block == 0 && j == c0_)) p_.pack_columns(columns_, p_.column_of(first_col_, j), begin, end);
      t.b = columns_;
    } else {
      t.b = p_.columns + p_.packed_panel(j) * p_.panel_bytes() + begin * kStepBytes;
      if (r1_ - r0_ == 1) t.ahead = kAhead;
    }
    for (int64_t i = r0_; i < r1_; ++i) {
      t.row_tiles = p_.row_tiles(i);
      t.a = rows_ ? rows_ + (i - r0_) * t.steps * kStepBytes : p_.rows + i * p_.panel_bytes() + begin * kStepBytes * t.row_tiles / 2;
      t.sums = sums_ + (turn_ ^= 1) * kSums;
      t.finish = finish_.sums ? &finish_ : nullptr;
      fetch_share(t, next, i - r0_);
      const TileFinish finish = finish_of(t.sums, block, i, j);
      t.coming = block == 0 && finish.in ? &finish : nullptr;
      p_.tiles.multiply(t);
      finish_ = finish;
      if (next_columns_) pack_share(next, i - r0_);
    }
    if (next_columns_) std::swap(columns_, next_columns_);
  }

  // A block of k of a column panel.
  struct Panel {
    int64_t j = 0, begin = 0, end = 0;   // steps; none: no panel
  };
  Panel panel_after(int64_t block, int64_t j) const {
    if (++j == c1_) j = c0_, ++block;
    return block == p_.blocks() ? Panel() : Panel{j, p_.block_begin(block), p_.block_begin(block + 1)};
  }
  int64_t share_begin(const Panel& panel, int64_t i) const { return panel.begin + i * (panel.end - panel.begin) / (r1_ - r0_); }

  // With each row panel a share of the next column panel's steps is packed, which has come into the cache with the row panel before.
  void pack_share(const Panel& next, int64_t i) const {
    const int64_t begin = share_begin(next, i), end = share_begin(next, i + 1);
    if (end > begin) p_.pack_columns(next_columns_ + (begin - next.begin) * kStepBytes, p_.column_of(first_col_, next.j), begin, end);
  }

  // What the i-th row panel's product has to fetch meanwhile: its share of the next column panel, or the one that is packed next.
  void fetch_share(TileProduct& t, const Panel& next, int64_t i) const {
    t.next_lines = 0;
    const int64_t rows = r1_ - r0_, at = next_columns_ && rows > 1 ? i + 1 : i;
    if (at >= rows || t.steps == 0) return;
    const int64_t begin = share_begin(next, at), steps = share_begin(next, at + 1) - begin;
    int64_t lines = steps * kStepBytes / 64;
    if (columns_) {
      const Tensor& b = p_.args.b;
      const int64_t col = p_.column_of(first_col_, next.j), lines_a_step = kTileStep * dtype_size(b.dtype) / 64;
      const bool turned = p_.args.form == GemmForm::nt;
      t.next = turned ? row_pointer(b, col, begin * kTileStep) : row_pointer(b, begin * kTileStep, col);
      t.next_stride = b.row_stride * dtype_size(b.dtype);
      t.next_width = turned ? steps * lines_a_step : lines_a_step;
      lines = turned ? kTilePanel : steps * kTileStep;
    } else {
      t.next = p_.columns + p_.packed_panel(next.j) * p_.panel_bytes() + begin * kStepBytes;
      t.next_stride = 64;
    }
    t.next_lines = steps > 0 ? ceil_of(lines, t.steps) : 0;
  }

  // What becomes of a block's sums: the block of c, or until k's last block what its sums are so far.
  TileFinish finish_of(const float* sums, int64_t block, int64_t i, int64_t j) const {
    const Tensor& c = p_.args.c;
    const bool gated = p_.gate_panels > 0;
    const int64_t row = i * kTilePanel, col = first_col_ + (gated ? j / 2 : j) * kTilePanel;
    const bool first = block == 0, last = block + 1 == p_.blocks();
    TileFinish f;
    f.sums = sums;
    f.rows = p_.panel_rows(i);
    f.cols = gated ? kTilePanel : p_.panel_cols(col);
    f.bias = first && p_.bias ? p_.bias + col : nullptr;
    float* kept = kept_ ? kept_ + ((j - c0_) * (r1_ - r0_) + (i - r0_)) * kSums : nullptr;
    f.out = kept && !last ? static_cast<void*>(kept) : c.data ? row_pointer(c, row, col) : nullptr;
    f.out_dtype = kept && !last ? DType::f32 : c.dtype;
    f.out_stride = kept && !last ? kTilePanel : c.row_stride;
    if (kept && !first) f.in = kept, f.in_stride = kTilePanel;
    else if (!first || p_.args.accumulate) f.in = row_pointer(c, row, col), f.in_dtype = c.dtype, f.in_stride = c.row_stride;
    f.stream = p_.stream && last && f.cols == kTilePanel;
    if (p_.head && last) finish_head(f, i, row, col);
    if (gated && last) {                 // gates wait for their ups, which are the next panel
      char* gates = gates_ + (i - r0_) * kSums * dtype_size(c.dtype);
      if (j % 2 == 0) f.out = gates, f.out_stride = kTilePanel, f.stream = false;
      else f.gate = gates;
    }
    return f;
  }

  void finish_head(TileFinish& f, int64_t panel, int64_t row, int64_t col) const {
    const HeadSink& head = *p_.head;
    f.targets = head.targets + row, f.first_column = static_cast<int32_t>(head.first_column + col);
    if (p_.reduces()) {
      const Lanes lanes = lanes_of(panel, 0);
      f.maxima = lanes.maxima, f.exponentials = lanes.sums, f.target_logits = head.target_logits + row;
    } else {
      f.lse = head.lse + row, f.dlogps = head.dlogps + row;
    }
  }

  const Product& p_;
  int64_t r0_, r1_, c0_, c1_, first_col_;
  float* sums_;                    // of this block and the one before, in turn
  float* kept_;                    // sums of the blocks of k so far, or null: they are in c
  char* rows_;                     // own packed rows of the block of k, or null
  char *columns_, *next_columns_;  // own packed blocks of column panels, this one and the one under way, or null
  char* gates_;                    // of c's type, [kTilePanel][kTilePanel] a row panel
  float* lanes_;                   // head: [rows][kTileEdge] maxima, then as many sums of exponentials
  TileFinish finish_;              // of the block before; `sums` is null where there is none
  int turn_ = 0;
};

struct Parts {
  int64_t rows, cols;
};

// Into how many tasks the product is cut: rows and sums fit a second cache, the tasks give every thread about the same, and of the cuts
// that do the one that takes least time by a simple account: what is multiplied, what comes from beyond the second cache (rows that several
// tasks share are packed there, and writing costs twice as much as reading), and threads that wait for the last tasks.
Parts parts_of(const Product& p, int64_t col_panels, int64_t threads) {
  constexpr double kStepCycles = 64, kBytesACycle = 8;      // of one core: four products of tiles; from the third cache
  constexpr int64_t kTall[] = {1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32};
  const int64_t units = ceil_of(col_panels, p.together());  // of columns
  const int64_t rows = p.row_panels(), block_bytes = std::max<int64_t>(1, p.block_steps() * kStepBytes);
  const double work = static_cast<double>(rows * col_panels * p.steps) * kStepCycles;
  Parts best{rows, units};
  double least = 0;
  bool best_even = false;
  for (const int64_t most : kTall) {
    const Parts by_rows{ceil_of(rows, most), 1};
    const int64_t tall = ceil_of(rows, by_rows.rows);
    if (tall > 1 && tall * block_bytes > kRowsBytes) break;
    const int64_t wide = p.blocks() > 1 ? std::clamp<int64_t>(kSumsBytes / (kSums * 4 * tall), 1, col_panels) : col_panels;
    const int64_t fewest = std::min(units, ceil_of(col_panels, wide));
    for (int64_t cols = fewest; cols <= std::min(units, fewest + 4 * threads); ++cols) {
      const Parts parts{by_rows.rows, cols};
      const auto tasks = static_cast<double>(parts.rows * cols), rounds = std::ceil(tasks / static_cast<double>(threads));
      const int64_t row_reads = cols == 1 ? 1 : 3 + cols;
      const double far = static_cast<double>((rows * row_reads + col_panels * by_rows.rows) * p.panel_bytes()) / kBytesACycle;
      const double cycles = (work + far) / tasks * (rounds + 0.25);
      const bool even = shares_evenly(rows, units, parts.rows, cols, threads);
      if (least == 0 || (even && !best_even) || (even == best_even && cycles < least)) least = cycles, best = parts, best_even = even;
    }
    if (by_rows.rows == 1) break;
  }
  return best;
}

// Calls pack(first panel, panels, begin, end) for pieces of k of groups of panels.
template <class F>
void pack_panels(Backend& backend, const Product& p, int64_t panels, bool side_by_side, const F& pack) {
  const int64_t threads = backend.pool.threads(), together = p.panels_a_task(panels, threads, side_by_side);
  const int64_t groups = ceil_of(panels, together);
  const PanelPieces pieces(groups, threads, p.steps * kTileStep);
  backend.pool.parallel_for(groups * pieces.count, [&](int64_t task, int) {
    const int64_t first = task / pieces.count * together, piece = task % pieces.count;
    pack(first, std::min(together, panels - first), pieces.begin(piece) / kTileStep, pieces.begin(piece + 1) / kTileStep);
  });
}

void pack_all_rows(Backend& backend, Product& p) {
  char* to = static_cast<char*>(backend.pack_a.bytes(static_cast<size_t>(p.row_panels() * p.panel_bytes())));
  pack_panels(backend, p, p.row_panels(), p.args.form == GemmForm::tn, [&](int64_t first, int64_t panels, int64_t begin, int64_t end) {
    p.pack_row_panels(to + first * p.panel_bytes(), p.panel_bytes(), 0, first, first + panels, begin, end);
  });
  p.rows = to;
}

void pack_columns(Backend& backend, const Product& p, char* to, int64_t first_col, int64_t panels) {
  pack_panels(backend, p, panels, p.args.form != GemmForm::nt, [&](int64_t first, int64_t count, int64_t begin, int64_t end) {
    p.pack_column_panels(to + first * p.panel_bytes(), first_col + first * kTilePanel, count, begin, end);
  });
}

void share_out(Backend& backend, const Product& p, const Parts& parts, int64_t first_col, int64_t col_panels) {
  backend.pool.parallel_for(parts.rows * parts.cols, [&](int64_t task, int thread) {
    const int64_t r = task / parts.cols, c = task % parts.cols, together = p.together(), units = ceil_of(col_panels, together);
    TileTask t(p, backend.local[static_cast<size_t>(thread)], r * p.row_panels() / parts.rows, (r + 1) * p.row_panels() / parts.rows,
               c * units / parts.cols * together, std::min(col_panels, (c + 1) * units / parts.cols * together), first_col);
    t.run();
  });
}

bool can_stream(const TileKernels& tiles, const Tensor& c) {
  return c.rows * c.cols * dtype_size(c.dtype) >= tiles.stream_bytes && reinterpret_cast<uintptr_t>(c.data) % 64 == 0 &&
         c.row_stride * dtype_size(c.dtype) % 64 == 0;
}

// Packs column panels [first, first + count) of a round, as tasks will look for them.
void pack_round(Backend& backend, Product& p, char* to, int64_t first, int64_t count) {
  if (p.gate_panels == 0) return pack_columns(backend, p, to, first * kTilePanel, count);
  p.packed_gates = count / 2;
  pack_columns(backend, p, to, first / 2 * kTilePanel, p.packed_gates);
  pack_columns(backend, p, to + p.packed_gates * p.panel_bytes(), (p.gate_panels + first / 2) * kTilePanel, p.packed_gates);
}

void multiply(Backend& backend, const GemmArgs& g, const HeadSink* head, int64_t m, int64_t n, int64_t k) {
  Product p{*backend.tiles, g, m, n, k, (k + kTileStep - 1) / kTileStep};
  p.head = head;
  p.stream = !g.accumulate && !head && can_stream(p.tiles, g.c);
  if (g.bias) {
    float* bias = backend.bias.floats(n);
    backend.kernels.convert(bias, DType::f32, g.bias.data, g.bias.dtype, n, 1.0f);
    p.bias = bias;
  }
  const int64_t col_panels = (n + kTilePanel - 1) / kTilePanel, threads = backend.pool.threads();
  if (g.swiglu_c) p.gate_panels = p.packed_gates = col_panels / 2;
  const Parts whole = parts_of(p, col_panels, threads);
  if (whole.cols > 1) pack_all_rows(backend, p);   // else each task packs its own, into its own cache
  if (g.packed_b) p.columns = static_cast<const char*>(g.packed_b->data);
  if (g.packed_b || whole.rows == 1) {             // a column panel serves one task, which packs it as it goes
    share_out(backend, p, whole, 0, col_panels);
    return;
  }
  const int64_t unit = p.together(), unit_bytes = std::max<int64_t>(1, unit * p.panel_bytes());
  const int64_t near = head ? std::max(kHeadColumnsBytes / unit_bytes, 2 * threads) : kColumnsBytes / unit_bytes;  // enough for every thread
  const int64_t round = std::clamp<int64_t>(std::min(near, kColumnsBytes / unit_bytes), 1, ceil_of(col_panels, unit)) * unit;
  char* packed = static_cast<char*>(backend.pack_b.bytes(static_cast<size_t>(std::min(round, col_panels) * p.panel_bytes())));
  p.columns = packed;
  for (int64_t first = 0; first < col_panels; first += round) {
    const int64_t count = std::min(round, col_panels - first);
    pack_round(backend, p, packed, first, count);
    share_out(backend, p, parts_of(p, count, threads), first / (p.gate_panels > 0 ? 2 : 1) * kTilePanel, count);
  }
}

}  // namespace

size_t packed_tile_bytes(int64_t n, int64_t k) {
  return static_cast<size_t>((n + kTilePanel - 1) / kTilePanel * ((k + kTileStep - 1) / kTileStep) * kStepBytes);
}

void pack_weight_tiles(Backend* backend, void* to, const Tensor& w) {
  GemmArgs args;
  args.b = w;
  const Product p{*backend->tiles, args, 0, w.rows, w.cols, (w.cols + kTileStep - 1) / kTileStep};
  pack_columns(*backend, p, static_cast<char*>(to), 0, (w.rows + kTilePanel - 1) / kTilePanel);
}

void gemm_tiles(Backend* backend, const GemmArgs& g, int64_t m, int64_t n, int64_t k) { multiply(*backend, g, nullptr, m, n, k); }

void head_tiles(Backend* backend, const GemmArgs& g, const HeadSink& head, int64_t m, int64_t n, int64_t k) {
  multiply(*backend, g, &head, m, n, k);
}

}  // namespace rlhi::ops
