#include "test/counting_kernels.h"

#include <algorithm>

namespace rlhi::test {
namespace {

using namespace rlhi::ops;

double cycles = 0;

void count_bytes(double bytes) { cycles += bytes / kBytesACycle; }
double bytes_of(DType dtype, double n) { return n * static_cast<double>(dtype_size(dtype)); }

// Multiply-adds a cycle: two units of vectors of 8 or 16 floats; a product of tiles, 16 x 16 x 32, every 16 cycles.
constexpr double kAvx2Rate = 16, kAvx512Rate = 32, kTileRate = 512;

template <int kRate>
void gemm_tile(const GemmTile& t) {
  cycles += static_cast<double>(t.rows) * t.cols * static_cast<double>(t.k) / kRate;
}
void pack_a(float*, const void*, DType dtype, int64_t, bool, int rows, int64_t k) {
  const double n = static_cast<double>(rows * k);
  count_bytes(bytes_of(dtype, n) + 4 * n);
}
template <int kColumns>
void pack_b(void*, DType to_dtype, const void*, DType dtype, int64_t, bool, int cols, int64_t k) {
  count_bytes(bytes_of(dtype, static_cast<double>(cols * k)) + bytes_of(to_dtype, static_cast<double>(kColumns * k)));
}

void softmax_of_block(const AttentionBlock& b, double arrays) {
  count_bytes(arrays * 2 * 4 * static_cast<double>(b.keys) * b.columns);
}

Kernels make_kernels(const char* name, int width, int mr) {
  Kernels k = {};
  k.name = name, k.width = width, k.mr = mr, k.nr = 2 * width, k.kc = 256;
  k.pack_a = pack_a;
  k.pack_b = width == 8 ? pack_b<16> : pack_b<32>;
  k.gemm_tile = width == 8 ? gemm_tile<static_cast<int>(kAvx2Rate)> : gemm_tile<static_cast<int>(kAvx512Rate)>;
  k.convert = [](void*, DType to, const void*, DType from, int64_t n, float) {
    count_bytes(bytes_of(to, static_cast<double>(n)) + bytes_of(from, static_cast<double>(n)));
  };
  k.add = [](void*, DType to, const void*, DType from, int64_t n) {
    count_bytes(2 * bytes_of(to, static_cast<double>(n)) + bytes_of(from, static_cast<double>(n)));
  };
  k.scale = [](float*, float, int64_t n) { count_bytes(8 * static_cast<double>(n)); };
  k.scale_columns = [](float*, int64_t, int64_t rows, const float*, int64_t n) { count_bytes(8 * static_cast<double>(rows * n)); };
  k.dot = [](const float*, const float*, int64_t n) {
    count_bytes(8 * static_cast<double>(n));
    return 0.0f;
  };
  k.sum_of_squares = [](const void*, DType dtype, int64_t n) {
    count_bytes(bytes_of(dtype, static_cast<double>(n)));
    return 0.0;
  };
  k.rms_norm = [](float*, const float*, const float*, float, int64_t n, float*) { count_bytes(8 * static_cast<double>(n)); };
  k.rms_norm_backward = [](float*, float*, const float*, const float*, const float*, float, int64_t n, bool accumulate) {
    count_bytes((accumulate ? 16 : 12) * static_cast<double>(n));
  };
  k.rms_norm_weight = [](float*, const float*, const float*, float, int64_t n) { count_bytes(8 * static_cast<double>(n)); };
  k.rope = [](void*, DType dtype, int64_t heads, int head_dim, const float*, float) {
    count_bytes(2 * bytes_of(dtype, static_cast<double>(heads * head_dim)));
  };
  k.swiglu = [](void*, DType out, const void*, DType dtype, int64_t n) {
    count_bytes(bytes_of(out, static_cast<double>(n)) + 2 * bytes_of(dtype, static_cast<double>(n)));
  };
  k.swiglu_backward = [](void*, DType to, const void*, DType dout, const void*, DType dtype, void* out, DType out_dtype, int64_t n) {
    const auto elements = static_cast<double>(n);
    count_bytes(2 * bytes_of(to, elements) + bytes_of(dout, elements) + 2 * bytes_of(dtype, elements) + (out ? bytes_of(out_dtype, elements) : 0));
  };
  k.row_max = [](const float*, int64_t n) {
    count_bytes(4 * static_cast<double>(n));
    return 0.0f;
  };
  k.row_sum_exp = [](const float*, int64_t n, float) {
    count_bytes(4 * static_cast<double>(n));
    return 1.0f;
  };
  k.softmax_gradient = [](float*, int64_t n, float, float) { count_bytes(8 * static_cast<double>(n)); };
  k.attention_softmax = [](const AttentionBlock& b) { softmax_of_block(b, 1); };
  k.attention_softmax_backward = [](const AttentionBlock& b) { softmax_of_block(b, 2); };
  k.adamw = [](const AdamWStep&, const AdamWRange& r) {
    count_bytes(static_cast<double>(8 + dtype_size(r.grad_dtype) + 4 * moment_size(r.moments)) * static_cast<double>(r.n));
  };
  return k;
}

void count_tiles(double tiles, int64_t steps) {
  cycles += tiles * static_cast<double>(steps) * kTileEdge * kTileEdge * kTileStep / kTileRate;
}
void finish(const TileFinish& f) {
  const double n = static_cast<double>(f.rows) * f.cols;
  count_bytes(bytes_of(f.out_dtype, n) + (f.in ? 4 * n : 0));
}
double tiles_of(int n) { return static_cast<double>((n + kTileEdge - 1) / kTileEdge); }

TileKernels make_tiles() {
  TileKernels t = {};
  t.stream_bytes = int64_t{256} << 10;
  t.begin = t.end = [] {};
  t.pack_rows = [](void*, const void*, DType dtype, int64_t, bool, int rows, int64_t k) {
    count_bytes(bytes_of(dtype, static_cast<double>(rows * k)) + 2 * static_cast<double>(rows * k));
  };
  t.pack_columns = [](void*, const void*, DType dtype, int64_t, bool, int cols, int64_t k) {
    count_bytes(bytes_of(dtype, static_cast<double>(cols * k)) + 2 * static_cast<double>(kTilePanel * k));
  };
  t.multiply = [](const TileProduct& p) {  // the block before is finished meanwhile
    count_tiles(2 * p.row_tiles, p.steps);
  };
  t.multiply_grid = [](const TileGrid& g) { count_tiles(tiles_of(g.rows) * tiles_of(g.cols), g.steps); };
  t.multiply_tall = t.multiply_wide = [](const TileStrip& s) { count_tiles(s.tiles, s.steps); };
  t.finish = finish;
  t.combine_exponentials = [](const float*, const float*, int64_t n, float* maximum, float* sum) {
    count_bytes(8 * static_cast<double>(n));
    *maximum = 0, *sum = 1;
  };
  t.attention_softmax = [](const AttentionBlock& b, const AttentionFactors&) { softmax_of_block(b, 1); };
  t.attention_softmax_backward = [](const AttentionBlock& b, const AttentionFactors&) { softmax_of_block(b, 2); };
  return t;
}

}  // namespace

double counted_cycles() { return cycles; }

const char* path_name(CountedPath path) {
  return path == CountedPath::avx2 ? "avx2" : path == CountedPath::avx512 ? "avx512" : "tiles";
}

const Kernels& counting_kernels(CountedPath path) {
  static const Kernels avx2 = make_kernels("avx2", 8, 6), avx512 = make_kernels("avx512", 16, 14);
  return path == CountedPath::avx2 ? avx2 : avx512;
}
const TileKernels* counting_tiles(CountedPath path) {
  static const TileKernels tiles = make_tiles();
  return path == CountedPath::tiles ? &tiles : nullptr;
}

}  // namespace rlhi::test
