// Softmax over the columns of a transposed attention block whose probabilities become factors of bf16: written packed, by an
// exponential as good as they need. Otherwise kernel_softmax.h's.
#pragma once
#include "ops/cpu/kernel_tiles.h"

namespace {

// Where the pair of keys 2q and 2q + 1 of column c lies in a right factor.
inline float* pair_place(const rlhi::ops::AttentionFactors& to, int q, int c) {
  bf16* tile = to.right + c / kTilePanel * to.right_panel + q / (kTileStep / 2) * 2 * kTileHalves + c % kTilePanel / kTileEdge * kTileHalves;
  return reinterpret_cast<float*>(tile + q % (kTileStep / 2) * kTileStep + c % kTileEdge * 2);
}

// kVectors vectors of columns side by side, so that no maximum and no sum waits for another.
template <int kVectors>
inline void soften_columns(const rlhi::ops::AttentionBlock& b, const rlhi::ops::AttentionFactors& to, int c) {
  constexpr int kStride = rlhi::ops::kScoreStride;
  V highest[kVectors], top[kVectors], sum[kVectors];
  for (int v = 0; v < kVectors; ++v) highest[v] = vset(-__builtin_inff());
  for (int i = 0; i < b.keys; ++i) {
    float* row = b.scores + i * kStride + c;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      V s = vload(row + v * kWidth);
      if (b.masked) {
        const V position = vload(b.position + c + v * kWidth), oldest = b.window > 0 ? position - vset(b.window) : vset(kNoScore);
        s = mask_score(s, position, oldest, b.first_position + static_cast<float>(i));
        vstore(row + v * kWidth, s);
      }
      highest[v] = vmax(highest[v], s);
    }
  }
  const V scale = vset(b.scale * kLog2E);
  for (int v = 0; v < kVectors; ++v) {
    const int at = c + v * kWidth;
    const V before = vload(b.running_max + at), maximum = vmax(before, highest[v] * vset(b.scale)), rescale = vexp(before - maximum);
    vstore(b.running_max + at, maximum);
    vstore(b.rescale + at, rescale);
    top[v] = maximum * vset(-kLog2E);
    sum[v] = vzero();
  }
  const auto probability = [&](int i, int v) { return vexp2_coarse(vfma(vload(b.scores + i * kStride + c + v * kWidth), scale, top[v])); };
  if (!to.right) {
    for (int i = 0; i < b.keys; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const V p = probability(i, v);
        vstore(b.scores + i * kStride + c + v * kWidth, p);
        sum[v] = sum[v] + p;
      }
    }
  } else {
    for (int i = 0; i < b.keys; i += 2) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const V p = probability(i, v), next = i + 1 < b.keys ? probability(i + 1, v) : vzero();
        vstore(pair_place(to, i / 2, c + v * kWidth), round_pair(p, next));
        sum[v] = (sum[v] + p) + next;
      }
    }
    for (int q = (b.keys + 1) / 2; q % (kTileStep / 2) != 0; ++q) {
      for (int v = 0; v < kVectors; ++v) vstore(pair_place(to, q, c + v * kWidth), vzero());
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const int at = c + v * kWidth;
    vstore(b.running_sum + at, vload(b.running_sum + at) * vload(b.rescale + at) + sum[v]);
  }
}

void attention_softmax_factors(const rlhi::ops::AttentionBlock& b, const rlhi::ops::AttentionFactors& to) {
  int c = 0;
  for (; c + 4 * kWidth <= b.columns; c += 4 * kWidth) soften_columns<4>(b, to, c);
  for (; c < b.columns; c += kWidth) soften_columns<1>(b, to, c);
}

// p = exp(score - lse); ds = p (dp - delta), both as left factors, ds as a right factor too. What rounding leaves of the sum of a
// query's ds is less than what it takes from each of them here, and is not put right.
void attention_softmax_backward_factors(const rlhi::ops::AttentionBlock& b, const rlhi::ops::AttentionFactors& to) {
  const V scale = vset(b.scale * kLog2E);
  struct Gradient {
    V p, ds;
  };
  const auto gradient = [&](int i, int c) -> Gradient {
    if (i >= b.keys) return {vzero(), vzero()};
    const int64_t at = static_cast<int64_t>(i) * rlhi::ops::kScoreStride + c;
    V s = vload(b.scores + at);
    if (b.masked) {
      const V position = vload(b.position + c), oldest = b.window > 0 ? position - vset(b.window) : vset(kNoScore);
      s = mask_score(s, position, oldest, b.first_position + static_cast<float>(i));
    }
    const V p = vexp2_coarse(vfma(s, scale, vload(b.lse + c) * vset(-kLog2E)));
    return {p, p * (vload(b.dscores + at) - vload(b.delta + c))};
  };
  const int left_rows = (to.left_keys - to.key + kTileEdge - 1) / kTileEdge * kTileEdge;  // a whole tile's, or more than there are
  const int row_tiles = left_rows > kTileEdge ? 2 : 1;
  for (int step = 0; step < b.columns / kTileStep; ++step) {
    const int64_t left = to.key / kTilePanel * to.left_panel + (to.column / kTileStep + step) * row_tiles * kTileHalves;
    bf16* pairs = to.right ? to.right + step * to.right_panel + to.key / kTileStep * 2 * kTileHalves : nullptr;
    for (int i = 0; i < kTilePanel; i += 2) {
      const int64_t row = left + i / kTileEdge * kTileHalves + i % kTileEdge * kTileStep;
#pragma GCC unroll 2
      for (int c = 0; c < kTileStep; c += kWidth) {
        const Gradient g = gradient(i, step * kTileStep + c), next = gradient(i + 1, step * kTileStep + c);
        if (pairs) vstore(reinterpret_cast<float*>(pairs + c / kTileEdge * kTileHalves + i / 2 * kTileStep + c % kTileEdge * 2), round_pair(g.ds, next.ds));
        if (i >= left_rows) continue;
        vstore(to.probability_rows + row + c, g.p);
        vstore(to.probability_rows + row + kTileStep + c, next.p);
        vstore(to.dscore_rows + row + c, g.ds);
        vstore(to.dscore_rows + row + kTileStep + c, next.ds);
      }
    }
  }
}

}  // namespace
