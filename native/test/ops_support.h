// What the tests of operations share: matrices that notice writes outside their view, the backends to run on, and tolerances.
#pragma once
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "test/backends.h"
#include "test/check.h"
#include "test/host_tensors.h"

namespace rlhi::test {

// A backend whose tensors lie in the host's memory.
class OpsBackend {
 public:
  OpsBackend(const BackendChoice& choice, int threads) {
    if (choice.device == "cpu") cpu_ = open_backend(choice, threads);
    else device_ = std::make_unique<HostTensors>(open_backend(choice, threads));
  }
  const ops::Table& table() const { return cpu_ ? cpu_->table() : device_->table(); }
  ops::Backend* handle() const { return cpu_ ? cpu_->handle() : device_->handle(); }

 private:
  std::unique_ptr<ops::Device> cpu_;
  std::unique_ptr<HostTensors> device_;
};

// One a choice and thread count, made once. A device has no threads to choose: one serves all counts.
inline OpsBackend& backend_of(const BackendChoice& choice = default_backend(), int threads = 2) {
  static std::map<std::pair<std::string, int>, std::unique_ptr<OpsBackend>> all;
  auto& backend = all[{choice.name(), on_cpu() ? threads : 1}];
  if (!backend) backend = std::make_unique<OpsBackend>(choice, threads);
  return *backend;
}

// f(table, handle) on every backend; a failure names it.
template <class F>
void on_every_backend(const F& f, int threads = 2) {
  for (const BackendChoice& choice : every_backend()) {
    OpsBackend& backend = backend_of(choice, threads);
    try {
      f(backend.table(), backend.handle());
    } catch (const std::exception& e) {
      throw std::runtime_error(concat(choice.name(), ": ", e.what()));
    }
  }
}

// Rows with a gap after each and before the first; the gaps hold a mark that nothing may overwrite.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType dtype = DType::f32, int64_t gap = 3)
      : rows_(rows), cols_(cols), stride_(cols + gap), gap_(gap), dtype_(dtype),
        bytes_(static_cast<size_t>((rows * stride_ + gap) * dtype_size(dtype)), kMark) {}
  static Matrix random(int64_t rows, int64_t cols, DType dtype, uint32_t seed, double size = 1.0, int64_t gap = 3) {
    Matrix m(rows, cols, dtype, gap);
    const std::vector<double>& normals = bell_shaped();
    size_t at = seed * 1013;
    for (int64_t i = 0; i < rows; ++i, at += 7) {    // rows do not repeat, whatever their length
      for (int64_t j = 0; j < cols; ++j) m.set(i, j, normals[++at % normals.size()] * size);
    }
    return m;
  }
  static Matrix filled(int64_t rows, int64_t cols, DType dtype, double value, int64_t gap = 3) {
    Matrix m(rows, cols, dtype, gap);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) m.set(i, j, value);
    }
    return m;
  }

  Tensor tensor() { return Tensor(bytes_.data() + gap_ * dtype_size(dtype_), dtype_, rows_, cols_, stride_); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  double at(int64_t i, int64_t j) const {
    const uint8_t* p = place(i, j);
    if (dtype_ == DType::f32) {
      float f;
      std::memcpy(&f, p, 4);
      return static_cast<double>(f);
    }
    bf16 b;
    std::memcpy(&b, p, 2);
    return static_cast<double>(to_float(b));
  }
  void set(int64_t i, int64_t j, double value) {
    const float f = static_cast<float>(value);
    if (dtype_ == DType::f32) {
      std::memcpy(place(i, j), &f, 4);
    } else {
      const bf16 b = to_bf16(f);
      std::memcpy(place(i, j), &b, 2);
    }
  }
  bool same_row(int64_t i, const Matrix& other, int64_t other_row) const {
    return std::memcmp(place(i, 0), other.place(other_row, 0), static_cast<size_t>(cols_ * dtype_size(dtype_))) == 0;
  }
  bool operator==(const Matrix& other) const { return bytes_ == other.bytes_; }
  void expect_gaps_untouched() const {
    const int64_t size = dtype_size(dtype_);
    for (int64_t i = -1; i < rows_; ++i) {
      const int64_t begin = (i < 0 ? 0 : gap_ + i * stride_ + cols_) * size;
      for (int64_t b = 0; b < gap_ * size; ++b) {
        const size_t at = static_cast<size_t>(begin + b);
        if (at < bytes_.size() && bytes_[at] != kMark) throw std::runtime_error(concat("wrote outside row ", i,
                                                                                       " of [", rows_, ", ", cols_, "]"));
      }
    }
  }

 private:
  static constexpr uint8_t kMark = 0x5a;
  // As many as a prime: making each number anew would take most of the tests' time.
  static const std::vector<double>& bell_shaped() {
    static const std::vector<double> all = [] {
      std::vector<double> x(8191);
      std::mt19937 random(1);
      std::normal_distribution<double> normal(0.0, 1.0);
      for (double& v : x) v = normal(random);
      return x;
    }();
    return all;
  }
  uint8_t* place(int64_t i, int64_t j) { return bytes_.data() + (gap_ + i * stride_ + j) * dtype_size(dtype_); }
  const uint8_t* place(int64_t i, int64_t j) const { return bytes_.data() + (gap_ + i * stride_ + j) * dtype_size(dtype_); }

  int64_t rows_, cols_, stride_, gap_;
  DType dtype_;
  std::vector<uint8_t> bytes_;
};

// Spacing of numbers near 1, halved: what one rounding to this type may cost, relatively.
inline double rounding(DType t) { return t == DType::f32 ? 6e-8 : 4e-3; }

// Whether products with a bf16 factor round the other factor to bf16.
inline bool multiplies_halves(const ops::Table& ops) {
  const std::string name = ops.backend_name;
  return name.rfind("cpu/", 0) != 0 || name == "cpu/portable-tiles" || name == "cpu/avx512-bf16" || name == "cpu/amx";
}
// What a product's term may lose relatively when its factors are of these types.
inline double factor_rounding(const ops::Table& ops, DType a, DType b) { return a != b && multiplies_halves(ops) ? rounding(DType::bf16) : 0.0; }

// |found - expected| <= tolerance, with the place in the message.
inline void expect_close(double found, double expected, double tolerance, const char* what, int64_t i = 0, int64_t j = 0) {
  if (!(std::abs(found - expected) <= tolerance)) {
    throw std::runtime_error(concat(what, "[", i, ", ", j, "] is ", found, ", expected ", expected, " within ", tolerance));
  }
}

}  // namespace rlhi::test
