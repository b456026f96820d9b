// Softmax over rows (the head) and over the columns of a transposed attention block.
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

float row_sum_exp(const float* x, int64_t n, float maximum) {
  const int64_t whole = n - n % kWidth;
  const float sum = sum_over(whole, [&](int64_t i, int) { return vexp(vload(x + i) - vset(maximum)); });
  if (whole == n) return sum;
  alignas(64) float rest[kWidth];
  vstore(rest, vexp(vload_n(x + whole, static_cast<int>(n - whole)) - vset(maximum)));
  float tail = 0;
  for (int64_t i = whole; i < n; ++i) tail += rest[i - whole];
  return sum + tail;
}

void softmax_gradient(float* x, int64_t n, float lse, float factor) {
  for_vectors(n, [&](int64_t i, int count) {
    store_up_to(x + i, vexp(load_up_to(x + i, count) - vset(lse)) * vset(-factor), count);
  });
}

// Online softmax: new maximum, probabilities against it, new sum, and the factor for what was summed before.
void attention_softmax(const rlhi::ops::AttentionBlock& b) {
  for (int c = 0; c < b.columns; c += kWidth) {
    float* column = b.scores + c;
    const V position = vload(b.position + c);
    const V oldest = b.window > 0 ? position - vset(b.window) : vset(kNoScore);
    V maximum = vload(b.running_max + c);
    const V before = maximum;
    for (int i = 0; i < b.keys; ++i) {
      V s = vload(column + i * rlhi::ops::kScoreStride);
      if (b.masked) {
        s = mask_score(s, position, oldest, b.first_position + static_cast<float>(i));
        vstore(column + i * rlhi::ops::kScoreStride, s);
      }
      maximum = vmax(maximum, s);
    }
    const V rescale = vexp(before - maximum);
    V sum = vzero();
    for (int i = 0; i < b.keys; ++i) {
      const V p = vexp(vload(column + i * rlhi::ops::kScoreStride) - maximum);
      vstore(column + i * rlhi::ops::kScoreStride, p);
      sum = sum + p;
    }
    vstore(b.running_max + c, maximum);
    vstore(b.running_sum + c, vload(b.running_sum + c) * rescale + sum);
    vstore(b.rescale + c, rescale);
  }
}

// p = exp(score - lse); ds = p (dp - delta).
//
// A query's ds sum to zero over its keys. Rounding leaves a remainder, and gradients in which the keys' common part cancels
// (the bias of the key projection above all) would consist of it. So the sum is kept in double, and what remains when the
// query's own key is reached, the last it sees, is taken from that key.
void attention_softmax_backward(const rlhi::ops::AttentionBlock& b) {
  for (int c = 0; c < b.columns; c += kWidth) {
    const V position = vload(b.position + c), lse = vload(b.lse + c), delta = vload(b.delta + c);
    const V oldest = b.window > 0 ? position - vset(b.window) : vset(kNoScore);
    Wide sum = wload(b.imbalance + c);
    for (int i = 0; i < b.keys; ++i) {
      const int64_t at = c + static_cast<int64_t>(i) * rlhi::ops::kScoreStride;
      V s = vload(b.scores + at);
      if (b.masked) s = mask_score(s, position, oldest, b.first_position + static_cast<float>(i));
      const V p = vexp(s - lse), ds = p * (vload(b.dscores + at) - delta);
      vstore(b.scores + at, p);
      vstore(b.dscores + at, ds);
      sum = wadd(sum, ds);
    }
    wstore(b.imbalance + c, sum);
  }
  for (int c = 0; c < b.columns; ++c) {
    const float own_key = b.position[c] - b.first_position;
    if (own_key < 0 || own_key >= static_cast<float>(b.keys)) continue;
    float& ds = b.dscores[c + static_cast<int64_t>(own_key) * rlhi::ops::kScoreStride];
    ds = static_cast<float>(static_cast<double>(ds) - b.imbalance[c]);
  }
}

}  // namespace
