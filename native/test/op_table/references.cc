#include "test/op_table/references.h"

#include <limits>

namespace rlhi::test {

double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i) sum += a.values[i] * b.values[i];
  return sum;
}

Array transposed(const Array& a) {
  Array t(a.cols, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) t.at(j, i) = a.at(i, j);
  }
  return t;
}

Array slopes(Array& x, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Array d(x.rows, x.cols);
  for (size_t i = 0; i < x.values.size(); ++i) {
    const double at = x.values[i];
    x.values[i] = at + kStep;
    const double up = loss();
    x.values[i] = at - kStep;
    d.values[i] = (up - loss()) / (2 * kStep);
    x.values[i] = at;
  }
  return d;
}

namespace reference {

Product product(const Array& a, const Array& b) {
  Product p{Array(a.rows, b.rows), Array(a.rows, b.rows)};
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.rows; ++j) {
      const double *x = a.row(i), *y = b.row(j);
      double sum = 0, size = 0;
      for (int64_t t = 0; t < a.cols; ++t) {
        sum += x[t] * y[t];
        size += std::abs(x[t] * y[t]);
      }
      p.sums.at(i, j) = sum, p.sizes.at(i, j) = size;
    }
  }
  return p;
}

Norm rms_norm(const Array& x, const Array& weight, double eps, int groups) {
  const int64_t n = x.cols / groups;
  Norm r{Array(x.rows, x.cols), Array(x.rows, groups)};
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int g = 0; g < groups; ++g) {
      double square = 0;
      for (int64_t j = 0; j < n; ++j) square += x.at(i, g * n + j) * x.at(i, g * n + j);
      r.rstd.at(i, g) = 1 / std::sqrt(square / static_cast<double>(n) + eps);
      for (int64_t j = 0; j < n; ++j) r.y.at(i, g * n + j) = x.at(i, g * n + j) * r.rstd.at(i, g) * weight.at(0, j);
    }
  }
  return r;
}

NormGradients rms_norm_backward(const Array& x, const Array& weight, const Array& dy, double eps, int groups) {
  const int64_t n = x.cols / groups;
  const Array rstd = rms_norm(x, weight, eps, groups).rstd;
  NormGradients d{Array(x.rows, x.cols), Array(1, n), Array(1, n)};
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int g = 0; g < groups; ++g) {
      const double r = rstd.at(i, g);
      double mean = 0;
      for (int64_t j = 0; j < n; ++j) mean += dy.at(i, g * n + j) * weight.at(0, j) * x.at(i, g * n + j) * r / static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j) {
        const double xhat = x.at(i, g * n + j) * r, term = dy.at(i, g * n + j) * xhat;
        d.dx.at(i, g * n + j) = r * (dy.at(i, g * n + j) * weight.at(0, j) - xhat * mean);
        d.dweight.at(0, j) += term;
        d.dweight_sizes.at(0, j) += std::abs(term);
      }
    }
  }
  return d;
}

Array rope(const Array& x, int head_dim, const Array& cos_sin, const std::vector<int32_t>& positions, int direction) {
  Array y(x.rows, x.cols);
  const int half = head_dim / 2;
  for (int64_t i = 0; i < x.rows; ++i) {
    const int64_t p = positions[static_cast<size_t>(i)];
    for (int64_t head = 0; head < x.cols; head += head_dim) {
      for (int j = 0; j < half; ++j) {
        const double x1 = x.at(i, head + j), x2 = x.at(i, head + half + j), c = cos_sin.at(p, j),
                     s = direction * cos_sin.at(p, half + j);
        y.at(i, head + j) = x1 * c - x2 * s;
        y.at(i, head + half + j) = x2 * c + x1 * s;
      }
    }
  }
  return y;
}

Array swiglu(const Array& gate_up) {
  const int64_t n = gate_up.cols / 2;
  Array out(gate_up.rows, n);
  for (int64_t i = 0; i < gate_up.rows; ++i) {
    for (int64_t j = 0; j < n; ++j) out.at(i, j) = gate_up.at(i, j) / (1 + std::exp(-gate_up.at(i, j))) * gate_up.at(i, n + j);
  }
  return out;
}

Array swiglu_backward(const Array& gate_up, const Array& dout) {
  const int64_t n = gate_up.cols / 2;
  Array d(gate_up.rows, 2 * n);
  for (int64_t i = 0; i < gate_up.rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double g = gate_up.at(i, j), s = 1 / (1 + std::exp(-g));
      d.at(i, j) = dout.at(i, j) * gate_up.at(i, n + j) * s * (1 + g * (1 - s));
      d.at(i, n + j) = dout.at(i, j) * g * s;
    }
  }
  return d;
}

namespace {

class AttentionLoops {
 public:
  AttentionLoops(const Layout& layout, Heads heads, int window, const AttentionInputs& in, bool backward)
      : t_(layout), h_(heads), window_(window), in_(in), backward_(backward), scale_(1 / std::sqrt(static_cast<double>(heads.dim))) {
    const int64_t q_width = static_cast<int64_t>(h_.n) * h_.dim, kv_width = static_cast<int64_t>(h_.kv) * h_.dim;
    r = {Array(t_.rows, q_width), Array(t_.rows, h_.n, -std::numeric_limits<double>::infinity()), Array(t_.rows, q_width),
         Array(t_.key_rows, kv_width), Array(t_.key_rows, kv_width)};
    for (const ops::QuerySegment& s : t_.segments) {
      for (int i = 0; i < s.length; ++i) {
        for (int head = 0; head < h_.n; ++head) one_query(s, i, head);
      }
    }
  }
  Attention r;

 private:
  // Key rows that the query sees, each with its score.
  std::vector<std::pair<int64_t, double>> scores_of(const ops::QuerySegment& s, int64_t position, const double* q, int64_t kv) const {
    std::vector<std::pair<int64_t, double>> seen;
    for (int j = 0; j < s.n_spans; ++j) {
      const ops::KeySpan& span = t_.spans[static_cast<size_t>(s.first_span + j)];
      for (int64_t u = 0; u < span.length; ++u) {
        const int64_t p = span.position + u;
        if (p > position || (window_ > 0 && p <= position - window_)) continue;
        const double* k = in_.k.row(span.row + u) + kv;
        double score = 0;
        for (int d = 0; d < h_.dim; ++d) score += q[d] * k[d];
        seen.emplace_back(span.row + u, score * scale_);
      }
    }
    return seen;
  }
  void one_query(const ops::QuerySegment& s, int i, int head) {
    const int64_t row = s.row + i, at = static_cast<int64_t>(head) * h_.dim, kv = static_cast<int64_t>(head / (h_.n / h_.kv)) * h_.dim;
    const double* q = in_.q.row(row) + at;
    std::vector<std::pair<int64_t, double>> seen = scores_of(s, s.position + i, q, kv);
    if (seen.empty()) return;
    double maximum = seen[0].second, sum = 0;
    for (const auto& [key, score] : seen) maximum = std::max(maximum, score);
    for (auto& [key, score] : seen) sum += score = std::exp(score - maximum);
    r.lse.at(row, head) = maximum + std::log(sum);
    double* out = r.out.row(row) + at;
    for (auto& [key, score] : seen) {
      score /= sum;                            // now a probability
      for (int d = 0; d < h_.dim; ++d) out[d] += score * in_.v.row(key)[kv + d];
    }
    if (!backward_) return;
    const double* dout = in_.dout.row(row) + at;
    double delta = 0;
    for (int d = 0; d < h_.dim; ++d) delta += dout[d] * out[d];
    for (const auto& [key, p] : seen) {
      double dp = 0;
      for (int d = 0; d < h_.dim; ++d) dp += dout[d] * in_.v.row(key)[kv + d];
      const double ds = p * (dp - delta) * scale_;
      for (int d = 0; d < h_.dim; ++d) {
        r.dv.row(key)[kv + d] += p * dout[d];
        r.dk.row(key)[kv + d] += ds * q[d];
        r.dq.row(row)[at + d] += ds * in_.k.row(key)[kv + d];
      }
    }
  }

  const Layout& t_;
  Heads h_;
  int window_;
  const AttentionInputs& in_;
  bool backward_;
  double scale_;
};

// d logits of a row, softmax's part and the target's.
template <class F>
void for_logit_gradients(const Array& h, const Array& w, const std::vector<int32_t>& targets, const F& f) {
  const Logprob r = linear_logprob(h, w, targets);
  const Array logits = product(h, w).sums;
  for (int64_t i = 0; i < h.rows; ++i) {
    for (int64_t v = 0; v < w.rows; ++v) {
      f(i, v, (v == targets[static_cast<size_t>(i)] ? 1.0 : 0.0) - std::exp(logits.at(i, v) - r.lse[static_cast<size_t>(i)]));
    }
  }
}

}  // namespace

Attention attention(const Layout& layout, Heads heads, int window, const AttentionInputs& in, bool backward) {
  return AttentionLoops(layout, heads, window, in, backward).r;
}

Logprob linear_logprob(const Array& h, const Array& w, const std::vector<int32_t>& targets) {
  const Array logits = product(h, w).sums;
  Logprob r;
  for (int64_t i = 0; i < h.rows; ++i) {
    double maximum = logits.at(i, 0), sum = 0;
    for (int64_t v = 0; v < w.rows; ++v) maximum = std::max(maximum, logits.at(i, v));
    for (int64_t v = 0; v < w.rows; ++v) sum += std::exp(logits.at(i, v) - maximum);
    r.lse.push_back(maximum + std::log(sum));
    r.logps.push_back(logits.at(i, targets[static_cast<size_t>(i)]) - r.lse.back());
  }
  return r;
}

LogprobGradients linear_logprob_backward(const Array& h, const Array& w, const std::vector<int32_t>& targets,
                                         const std::vector<float>& dlogps) {
  LogprobGradients d{Array(h.rows, h.cols), Array(w.rows, w.cols), Array(h.rows, h.cols), Array(w.rows, w.cols)};
  for_logit_gradients(h, w, targets, [&](int64_t i, int64_t v, double gradient) {
    const double g = gradient * static_cast<double>(dlogps[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < h.cols; ++j) {
      d.dh.at(i, j) += g * w.at(v, j), d.dh_sizes.at(i, j) += std::abs(g * w.at(v, j));
      d.dw.at(v, j) += g * h.at(i, j), d.dw_sizes.at(v, j) += std::abs(g * h.at(i, j));
    }
  });
  return d;
}

}  // namespace reference
}  // namespace rlhi::test
