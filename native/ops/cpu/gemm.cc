// The matrix product: both factors packed into panels, then tiles of c shared out to the threads.
//
// Panels hold the whole of k: panel i of a is [k][height], panel j of b is [k][nr], so a weight packed once serves every
// product, and a block of k is a contiguous piece of each panel. The sum over k is cut in blocks of kc from its start;
// the result is (((start + block 0) + block 1) + ...), start being c when accumulating, the bias, or nothing. None of
// this depends on the number of rows, so neither do a row's bits.
#include <algorithm>

#include "ops/cpu/backend.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kScratchBytes = int64_t{96} << 20;  // of packed b; more columns are done in several rounds
constexpr int64_t kTileRows = 72, kTileColPanels = 64;  // of a task's tile, at most: its rows of a stay in the second cache
constexpr int64_t kFarBytes = int64_t{16} << 20;      // a b larger than this comes from memory: it is cut in pieces of
constexpr int64_t kNearBytes = int64_t{1} << 20;      // this, and every row passes a piece before the next is begun
constexpr int64_t kRowBytes = int64_t{1200} << 10;    // while the whole of k of them takes no more than this
constexpr int64_t kAhead = 2048;                      // bytes that b is prefetched ahead of use where it is read once

struct Product {
  const Kernels& kernels;
  GemmShape shape;
  RowPanels panels;
  Tensor a_rows;
  bool a_transposed;
  const float* a;              // packed, panel i at begin(i) * k
  const char* b;               // packed, column panels from `first_col`
  DType b_dtype;
  Tensor c;
  const float* bias;
  bool accumulate;
};

// k in [begin, end) of a row panel that begins at `to`.
void pack_row_panel(const Product& p, int64_t panel, float* to, int64_t begin, int64_t end) {
  const int64_t row = p.panels.begin(panel);
  const int height = p.panels.size(panel);
  const char* from = p.a_transposed ? row_pointer(p.a_rows, begin, row) : row_pointer(p.a_rows, row, begin);
  p.kernels.pack_a(to + begin * height, from, p.a_rows.dtype, p.a_rows.row_stride, p.a_transposed, height, end - begin);
}

// Calls pack(panel, begin, end) for pieces of k of all panels, which have `width` elements at each k.
template <class F>
void pack_panels(Backend& backend, int64_t panels, int64_t width, int64_t k, const F& pack) {
  const PanelPieces pieces(panels, backend.pool.threads(), k);
  const int64_t grain = 32768 / std::max<int64_t>(1, k / pieces.count * std::max<int64_t>(1, width));
  for_ranges(backend, panels * pieces.count, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pack(i / pieces.count, pieces.begin(i % pieces.count), pieces.begin(i % pieces.count + 1));
  });
}

const float* pack_rows(Backend& backend, const Product& p) {
  float* to = backend.pack_a.floats(p.shape.m * p.shape.k);
  pack_panels(backend, p.panels.count, p.panels.base, p.shape.k, [&](int64_t i, int64_t begin, int64_t end) {
    pack_row_panel(p, i, to + p.panels.begin(i) * p.shape.k, begin, end);
  });
  return to;
}

// Column panels [first, first + count) of b; b is [n, k] when turned, else [k, n].
void pack_columns(Backend& backend, void* to, DType to_dtype, const Tensor& b, bool turned, int64_t n, int64_t k, int64_t first,
                  int64_t count) {
  const int nr = backend.kernels.nr;
  pack_panels(backend, count, nr, k, [&](int64_t j, int64_t begin, int64_t end) {
    const int64_t col = (first + j) * nr;
    const char* from = turned ? row_pointer(b, col, begin) : row_pointer(b, begin, col);
    char* piece = static_cast<char*>(to) + (j * k + begin) * nr * dtype_size(to_dtype);
    backend.kernels.pack_b(piece, to_dtype, from, b.dtype, b.row_stride, turned, static_cast<int>(std::min<int64_t>(nr, n - col)), end - begin);
  });
}

// One task: row panels [r0, r1) by the column panels [c0, c1) of a round whose first column is `first_col`.
struct TileTask {
  const Product& p;
  int64_t r0, r1, c0, c1, first_col;
  float* widened;              // kc x nr floats
  float* own_rows;             // the task's own packed rows of a, or null: they are in p.a
  float* sums;                 // c's tile in f32 where c is bf16 and the sum takes several blocks

  void run() {
    if (own_rows) {
      for (int64_t i = r0; i < r1; ++i) pack_row_panel(p, i, own_rows + (p.panels.begin(i) - p.panels.begin(r0)) * p.shape.k, 0, p.shape.k);
    }
    const int64_t blocks = std::max<int64_t>(1, (p.shape.k + p.kernels.kc - 1) / p.kernels.kc);
    if ((p.panels.begin(r1) - p.panels.begin(r0)) * p.shape.k * 4 <= kRowBytes) {  // c's panel stays in the first cache
      for (int64_t j = c0; j < c1; ++j) {
        for (int64_t block = 0; block < blocks; ++block) step(j, block, blocks);
      }
    } else {                   // a's block stays in the second cache
      for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t j = c0; j < c1; ++j) step(j, block, blocks);
      }
    }
  }

  void step(int64_t j, int64_t block, int64_t blocks) {
    const Kernels& kernels = p.kernels;
    const int64_t k0 = block * kernels.kc, col = first_col + j * kernels.nr;
    GemmTile t;
    t.k = std::min<int64_t>(kernels.kc, p.shape.k - k0);
    t.cols = static_cast<int>(std::min<int64_t>(kernels.nr, p.shape.n - col));
    t.b = p.b + (j * p.shape.k + k0) * kernels.nr * dtype_size(p.b_dtype);
    t.b_dtype = p.b_dtype;
    t.b_stride = kernels.nr;
    if (p.b_dtype == DType::bf16 && r1 - r0 > 2) {
      kernels.convert(widened, DType::f32, t.b, DType::bf16, t.k * kernels.nr, 1.0f);
      t.b = widened;
      t.b_dtype = DType::f32;
    }
    const bool direct = p.c.dtype == DType::f32 || blocks == 1;
    const int64_t width = (c1 - c0) * kernels.nr;
    t.bias = block == 0 && p.bias ? p.bias + col : nullptr;
    for (int64_t i = r0; i < r1; ++i) {
      const int64_t row = p.panels.begin(i);
      t.rows = p.panels.size(i);
      t.a = (own_rows ? own_rows - p.panels.begin(r0) * p.shape.k : p.a) + row * p.shape.k + k0 * t.rows;
      t.a_stride = t.rows;
      float* tile = sums ? sums + (row - p.panels.begin(r0)) * width + (j - c0) * kernels.nr : nullptr;
      const bool last = block + 1 == blocks;
      t.out = direct || last ? static_cast<void*>(row_pointer(p.c, row, col)) : tile;
      t.out_stride = direct || last ? p.c.row_stride : width;
      t.out_dtype = direct || last ? p.c.dtype : DType::f32;
      if (direct) {
        t.in = block > 0 || p.accumulate ? t.out : nullptr;
        t.in_dtype = p.c.dtype;
        t.in_stride = p.c.row_stride;
      } else {
        const bool from_c = block == 0 && p.accumulate;
        t.in = from_c ? row_pointer(p.c, row, col) : block > 0 ? reinterpret_cast<const char*>(tile) : nullptr;
        t.in_dtype = from_c ? p.c.dtype : DType::f32;
        t.in_stride = from_c ? p.c.row_stride : width;
      }
      if (i == r0) prefetch_for(t, j, block);
      kernels.gemm_tile(t);
      t.prefetch = nullptr;
    }
  }

  // b is read from far away: few rows stream through it, many rows come to the next panel soon.
  void prefetch_for(GemmTile& t, int64_t j, int64_t block) const {
    const int64_t size = dtype_size(p.b_dtype), step = p.kernels.nr * size;
    const char* here = p.b + (j * p.shape.k + block * p.kernels.kc) * step;
    if (r1 - r0 <= 2) t.prefetch = here + kAhead;
    else if (j + 1 < c1) t.prefetch = here + p.shape.k * step;
    t.prefetch_stride = step;
  }
};

struct Parts {
  int64_t rows, cols;
};

// Into how many tasks to cut the product: tiles of at most kTileRows rows, and a multiple of the threads where tasks are few.
Parts parts_of(const Product& p, int64_t col_panels, int64_t threads) {
  const int64_t tile_panels = std::max<int64_t>(1, kTileRows / p.kernels.mr),
      panel_bytes = p.kernels.nr * p.shape.k * dtype_size(p.b_dtype);
  const int64_t near = std::clamp<int64_t>(kNearBytes / std::max<int64_t>(1, panel_bytes), 4, kTileColPanels);
  const int64_t tile_cols = panel_bytes * col_panels > kFarBytes ? near : kTileColPanels;
  Parts parts{(p.panels.count + tile_panels - 1) / tile_panels, (col_panels + tile_cols - 1) / tile_cols};
  if (parts.rows * parts.cols >= 16 * threads) return parts;
  if (p.panels.count > 2 * threads) {
    parts.rows = std::min(p.panels.count, round_up(parts.rows, threads));
    while (parts.rows * parts.cols < 2 * threads && 2 * parts.cols <= col_panels) parts.cols *= 2;
    const int64_t cols = parts.cols;             // more of them where these leave threads waiting
    while (!shares_evenly(p.panels.count, col_panels, parts.rows, parts.cols, threads) && parts.cols < std::min(col_panels, 8 * cols)) ++parts.cols;
    return parts;
  }
  const int64_t worth_a_task = std::max<int64_t>(1, panel_bytes * col_panels >> 15);  // some tens of KB of b
  parts.cols = std::max(parts.cols, std::min(4 * threads, worth_a_task));
  parts.cols = std::min(col_panels, round_up(parts.cols, threads));
  const auto even = [&] { return shares_evenly(p.panels.count, col_panels, parts.rows, parts.cols, threads); };
  while (parts.cols == col_panels && parts.rows < p.panels.count && !even()) ++parts.rows;
  return parts;
}

void share_out(Backend& backend, Product& p, int64_t first_col, int64_t col_panels) {
  const Parts parts = parts_of(p, col_panels, backend.pool.threads());
  // Rows that few tasks share are packed by each of them, into memory that stays in its cache.
  if (!p.a && (parts.cols > 2 || parts.rows == 1)) p.a = pack_rows(backend, p);
  const bool keep_sums = p.c.dtype == DType::bf16 && p.shape.k > p.kernels.kc;
  backend.pool.parallel_for(parts.rows * parts.cols, [&](int64_t task, int thread) {
    const int64_t r = task % parts.rows, c = task / parts.rows;
    TileTask t{p, r * p.panels.count / parts.rows, (r + 1) * p.panels.count / parts.rows, c * col_panels / parts.cols,
               (c + 1) * col_panels / parts.cols, first_col, nullptr, nullptr, nullptr};
    const int64_t widened = static_cast<int64_t>(p.kernels.kc) * p.kernels.nr;
    const int64_t sums = keep_sums ? (p.panels.begin(t.r1) - p.panels.begin(t.r0)) * (t.c1 - t.c0) * p.kernels.nr : 0;
    const int64_t own = p.a ? 0 : (p.panels.begin(t.r1) - p.panels.begin(t.r0)) * p.shape.k;
    t.widened = backend.local[static_cast<size_t>(thread)].floats(widened + own + sums);
    t.own_rows = p.a ? nullptr : t.widened + widened;
    t.sums = keep_sums ? t.widened + widened + own : nullptr;
    t.run();
  });
}

}  // namespace

size_t packed_bytes(Backend* backend, DType dtype, int64_t n, int64_t k) {
  if (backend->tiles && dtype == DType::bf16) return packed_tile_bytes(n, k);
  return static_cast<size_t>(round_up(n, backend->kernels.nr) * k * dtype_size(dtype));
}

void pack_weight(Backend* backend, PackedWeight* to, Tensor w) {
  check_float("pack_weight", "w", w);
  check(to->data != nullptr, ErrorCode::invalid_argument, "pack_weight: no memory given");
  to->dtype = w.dtype;
  to->n = w.rows;
  to->k = w.cols;
  if (backend->tiles && w.dtype == DType::bf16) return pack_weight_tiles(backend, to->data, w);
  pack_columns(*backend, to->data, w.dtype, w, true, w.rows, w.cols, 0, (w.rows + backend->kernels.nr - 1) / backend->kernels.nr);
}

int64_t packed_offset(const Backend& backend, const PackedWeight& w, int64_t column) {
  return backend.tiles && w.dtype == DType::bf16 ? static_cast<int64_t>(packed_tile_bytes(column, w.k))
                                                 : column * w.k * dtype_size(w.dtype);
}

namespace {

bool can_gate(const Backend& backend, const GemmArgs& g) {
  return backend.tiles && (g.packed_b ? g.packed_b->dtype : g.b.dtype) == DType::bf16 && g.c.cols % kTilePanel == 0;
}

void multiply_and_gate(Backend* backend, const GemmArgs& g, const GemmShape& s) {
  GemmArgs plain = g;
  plain.swiglu_c = false;
  plain.c = Tensor(backend->gate_up.bytes(static_cast<size_t>(s.m * s.n * dtype_size(g.c.dtype))), g.c.dtype, s.m, s.n);
  gemm(backend, plain);
  swiglu(backend, g.c, plain.c);
}

}  // namespace

void gemm(Backend* backend, const GemmArgs& g) {
  const GemmShape s = check_gemm(g);
  if (s.m == 0 || s.n == 0) return;
  if (g.swiglu_c && !can_gate(*backend, g)) return multiply_and_gate(backend, g, s);
  const DType b_dtype = g.packed_b ? g.packed_b->dtype : g.b.dtype;
  const bool halves = b_dtype == DType::bf16 || (g.a.dtype == DType::bf16 && !g.packed_b);
  if (backend->tiles && halves) return gemm_tiles(backend, g, s.m, s.n, s.k);
  const Kernels& kernels = backend->kernels;
  Product p{kernels, s, RowPanels(s.m, kernels.mr), g.a, g.form == GemmForm::tn, nullptr, nullptr, DType::f32, g.c, nullptr, g.accumulate};
  if (g.bias) {
    float* bias = backend->bias.floats(s.n);
    kernels.convert(bias, DType::f32, g.bias.data, g.bias.dtype, s.n, 1.0f);
    p.bias = bias;
  }
  const int64_t col_panels = (s.n + kernels.nr - 1) / kernels.nr;
  if (g.packed_b) {
    p.b = static_cast<const char*>(g.packed_b->data);
    p.b_dtype = g.packed_b->dtype;
    share_out(*backend, p, 0, col_panels);
    return;
  }
  const int64_t panel_bytes = std::max<int64_t>(1, s.k) * kernels.nr * 4;
  const int64_t round = std::clamp<int64_t>(kScratchBytes / panel_bytes, 1, col_panels);
  void* packed = backend->pack_b.bytes(static_cast<size_t>(round * panel_bytes));
  p.b = static_cast<const char*>(packed);
  for (int64_t first = 0; first < col_panels; first += round) {
    const int64_t count = std::min(round, col_panels - first);
    pack_columns(*backend, packed, DType::f32, g.b, g.form == GemmForm::nt, s.n, s.k, first, count);
    share_out(*backend, p, first * kernels.nr, count);
  }
}

}  // namespace rlhi::ops
