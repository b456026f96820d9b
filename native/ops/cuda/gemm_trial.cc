#include "ops/cuda/gemm_trial.h"

#include <cmath>
#include <cstring>
#include <random>
#include <utility>

namespace rlhi::ops::cuda {
namespace {

constexpr int64_t kDistinctRows = 61;  // of b, before they repeat
constexpr int kTimes = 5;

size_t bytes_of(const Tensor& t, int64_t rows) { return static_cast<size_t>(rows * t.row_stride * dtype_size(t.dtype)); }

void put(std::vector<char>& to, const Tensor& t, int64_t row, int64_t col, float value) {
  char* at = to.data() + (row * t.row_stride + col) * dtype_size(t.dtype);
  const bf16 rounded = to_bf16(value);
  if (t.dtype == DType::f32) std::memcpy(at, &value, sizeof value);
  else std::memcpy(at, &rounded, sizeof rounded);
}

// a whole, and b as its distinct rows with the order in which they make it up.
struct Numbers {
  explicit Numbers(const GemmArgs& g) : a(bytes_of(g.a, g.a.rows)), order(static_cast<size_t>(g.b.rows)) {
    const bool along_columns = g.form == GemmForm::nt;  // where b's k lies
    const int64_t half = g.a.cols / 2;                  // an odd one out stays zero in a
    n_rows = along_columns ? kDistinctRows : 2 * kDistinctRows;
    rows.resize(bytes_of(g.b, n_rows));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < g.a.rows; ++i) {
      for (int64_t j = 0; j < half; ++j) {
        const float x = normal(random);
        put(a, g.a, i, j, x), put(a, g.a, i, half + j, x);
      }
    }
    for (int64_t i = 0; i < kDistinctRows; ++i) {
      for (int64_t j = 0; j < (along_columns ? half : g.b.cols); ++j) {
        const float x = normal(random);
        put(rows, g.b, i, j, x);
        if (along_columns) put(rows, g.b, i, half + j, -x);
        else put(rows, g.b, kDistinctRows + i, j, -x);
      }
    }
    for (int64_t i = 0; i < g.b.rows; ++i) {
      const bool second = !along_columns && i >= half;
      order[static_cast<size_t>(i)] = static_cast<int32_t>(second ? kDistinctRows + (i - half) % kDistinctRows : i % kDistinctRows);
    }
  }
  std::vector<char> a, rows;
  std::vector<int32_t> order;
  int64_t n_rows = 0;
};

// Numbers about as large as what rounding leaves of the sums.
std::vector<char> residues(const Tensor& t) {
  std::vector<char> bytes(bytes_of(t, t.rows));
  for (int64_t i = 0; i < t.rows; ++i)
    for (int64_t j = 0; j < t.cols; ++j) put(bytes, t, i, j, std::ldexp(static_cast<float>((5 * i + j) % 61 - 30), -20));
  return bytes;
}

}  // namespace

GemmTrial::Memory::~Memory() {
  if (data) runtime::release(data);
}
bool GemmTrial::Memory::take(size_t bytes) { return (data = runtime::allocate(bytes)) != nullptr; }

GemmTrial::GemmTrial(const Launch& launch, const GemmArgs& shape) : launch_(launch), args_(shape) {
  for (Tensor* t : {&args_.a, &args_.b, &args_.c}) t->row_stride = (t->cols + 15) / 16 * 16;  // aligned at least as any operand is
  args_.bias.row_stride = args_.bias.cols;
  c_bytes_ = bytes_of(args_.c, args_.c.rows);
  ready_ = a_.take(bytes_of(args_.a, args_.a.rows)) && b_.take(bytes_of(args_.b, args_.b.rows)) && c_.take(c_bytes_) &&
           bias_.take(static_cast<size_t>(args_.c.cols) * sizeof(float)) && rows_.take(bytes_of(args_.b, 2 * kDistinctRows)) &&
           order_.take(static_cast<size_t>(args_.b.rows) * sizeof(int32_t));
  if (ready_) fill();
}

void GemmTrial::fill() {
  args_.a.data = a_.data, args_.b.data = b_.data, args_.c.data = c_.data;
  if (args_.bias) args_.bias.data = bias_.data;
  const Numbers numbers(args_);
  if (args_.accumulate) before_ = residues(args_.c);
  if (args_.bias) {
    const std::vector<char> bias = residues(args_.bias);
    runtime::copy_in(launch_.stream, bias_.data, bias.data(), bias.size());
  }
  runtime::copy_in(launch_.stream, a_.data, numbers.a.data(), numbers.a.size());
  runtime::copy_in(launch_.stream, rows_.data, numbers.rows.data(), numbers.rows.size());
  runtime::copy_in(launch_.stream, order_.data, numbers.order.data(), numbers.order.size() * sizeof(int32_t));
  const Tensor distinct(rows_.data, args_.b.dtype, numbers.n_rows, args_.b.cols, args_.b.row_stride);
  move_rows(launch_, args_.b, nullptr, distinct, static_cast<const int32_t*>(order_.data), args_.b.rows);
  runtime::synchronize(launch_.stream);
}

void GemmTrial::begin(const GemmArgs& args, const std::function<void()>& multiply) {
  c_bytes_ = bytes_of(args.c, args.c.rows);
  run(multiply, expected_);
  least_ = runtime::least_milliseconds(launch_.stream, kTimes, multiply);
}

bool GemmTrial::is_better(const std::function<void()>& multiply) {
  run(multiply, found_);
  if (std::memcmp(found_.data(), expected_.data(), c_bytes_) != 0) return false;
  const double time = runtime::least_milliseconds(launch_.stream, kTimes, multiply);
  if (time >= least_) return false;
  least_ = time;
  return true;
}

void GemmTrial::run(const std::function<void()>& multiply, std::vector<char>& c) {
  if (before_.empty()) runtime::zero(launch_.stream, c_.data, c_bytes_);
  else runtime::copy_in(launch_.stream, c_.data, before_.data(), c_bytes_);
  multiply();
  if (c.size() < c_bytes_) c.resize(c_bytes_);
  runtime::copy_out(launch_.stream, c.data(), c_.data, c_bytes_);
  runtime::synchronize(launch_.stream);
}

}  // namespace rlhi::ops::cuda
