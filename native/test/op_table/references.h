// The operations in straightforward double loops: what every backend is held against. They share nothing with the engine but the
// arguments' shapes.
#pragma once
#include <cmath>
#include <functional>
#include <vector>

#include "test/attention_layout.h"
#include "test/ops_support.h"

namespace rlhi::test {

// A matrix of doubles.
struct Array {
  Array() = default;
  Array(int64_t rows, int64_t cols, double value = 0) : rows(rows), cols(cols), values(static_cast<size_t>(rows * cols), value) {}
  explicit Array(const Matrix& m) : Array(m.rows(), m.cols()) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) at(i, j) = m.at(i, j);
    }
  }
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * cols + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * cols + j)]; }
  const double* row(int64_t i) const { return values.data() + i * cols; }
  double* row(int64_t i) { return values.data() + i * cols; }
  int64_t rows = 0, cols = 0;
  std::vector<double> values;
};

double dot(const Array& a, const Array& b);      // sum of products, element by element
Array transposed(const Array& a);

// Derivatives of loss() by central differences of x, which it reads. The values of x lie near 1.
Array slopes(Array& x, const std::function<double()>& loss);

namespace reference {

struct Product {
  Array sums, sizes;                             // sizes: sums of the terms' sizes
};
Product product(const Array& a, const Array& b);  // a [m,k] b[n,k]^T

struct Norm {
  Array y, rstd;
};
Norm rms_norm(const Array& x, const Array& weight, double eps, int groups);
struct NormGradients {
  Array dx, dweight, dweight_sizes;
};
NormGradients rms_norm_backward(const Array& x, const Array& weight, const Array& dy, double eps, int groups);

Array rope(const Array& x, int head_dim, const Array& cos_sin, const std::vector<int32_t>& positions, int direction);

Array swiglu(const Array& gate_up);
Array swiglu_backward(const Array& gate_up, const Array& dout);

struct AttentionInputs {
  Array q, k, v, dout;
};
struct Attention {
  Array out, lse, dq, dk, dv;                    // lse is minus infinity where a query sees no key
};
Attention attention(const Layout& layout, Heads heads, int window, const AttentionInputs& in, bool backward);

struct Logprob {
  std::vector<double> logps, lse;
};
Logprob linear_logprob(const Array& h, const Array& w, const std::vector<int32_t>& targets);
struct LogprobGradients {
  Array dh, dw, dh_sizes, dw_sizes;
};
LogprobGradients linear_logprob_backward(const Array& h, const Array& w, const std::vector<int32_t>& targets,
                                         const std::vector<float>& dlogps);

}  // namespace reference
}  // namespace rlhi::test
