// RMSNorm: one pass over memory, with the copy of x that a backward needs.
#include "ops/cuda/kernels/norm.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = kNormThreads;

struct NormArgs {
  Rows y, x, weight, rstd, copy_x;
  NormShape shape;
  float eps;
};

template <int kGroup>
RLHI_DEVICE float squares(const Group<kGroup>& g, bool is_f32, float sum) {
  float x[kGroup];
  to_floats(x, g, is_f32);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) sum = fused_multiply_add(x[j], x[j], sum);
  return sum;
}
RLHI_DEVICE float inverse_root(const NormArgs& a, float sum) {
  return inverse_square_root(fused_multiply_add(sum, a.shape.inverse_n, a.eps));
}
template <int kGroup>
RLHI_DEVICE void store_normed(const NormArgs& a, const NormRow& at, int64_t column, const Group<kGroup>& g, const float (&w)[kGroup],
                              float r) {
  float x[kGroup];
  to_floats(x, g, a.x.is_f32);
  if (a.copy_x) store_floats(a.copy_x.at(at.row, at.begin + column), a.copy_x.is_f32, x);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) x[j] = x[j] * r * w[j];
  store_floats(a.y.at(at.row, at.begin + column), a.y.is_f32, x);
}

template <int kGroup, int kLanes>
RLHI_KERNEL(kThreads, 4)
void narrow_norm_kernel(NormArgs a) {
  constexpr int kTeams = kThreads / kLanes;
  const int64_t first = static_cast<int64_t>(block_index()) * (kTeams * kRowsAtOnce) + thread_index() / kLanes;
  const int64_t column = thread_index() % kLanes * kGroup;
  const bool active = column < a.shape.n;
  Group<kGroup> held[kRowsAtOnce] = {};
  float w[kGroup] = {};
  RLHI_UNROLL
  for (int u = 0; u < kRowsAtOnce; ++u) {
    if (!active || first + u * kTeams >= a.shape.rows) continue;
    const NormRow at = norm_row(a.shape, first + u * kTeams);
    held[u] = load_group<kGroup>(a.x.at(at.row, at.begin + column), a.x.is_f32);
  }
  if (active) load_floats(w, a.weight.at(0, column), a.weight.is_f32);
  RLHI_UNROLL
  for (int u = 0; u < kRowsAtOnce; ++u) {
    const float r = inverse_root(a, lanes_sum<kLanes>(active ? squares(held[u], a.x.is_f32, 0.0f) : 0.0f));
    if (first + u * kTeams >= a.shape.rows) continue;
    const NormRow at = norm_row(a.shape, first + u * kTeams);
    if (column == 0 && a.rstd) *static_cast<float*>(a.rstd.at(at.row, at.group)) = r;
    if (active) store_normed(a, at, column, held[u], w, r);
  }
}

template <int kGroup, int kLanes, int kHeld>
RLHI_KERNEL(kThreads, 2)
void norm_kernel(NormArgs a) {
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int64_t row = static_cast<int64_t>(block_index()) * (kThreads / kLanes) + thread_index() / kLanes;
  if (kLanes == 32 && row >= a.shape.rows) return;  // a warp leaves as a whole, and no barrier of the block follows
  const NormRow at = norm_row(a.shape, row);
  const int lane = thread_index() % kLanes;
  Group<kGroup> held[kHeld > 0 ? kHeld : 1] = {};
  float sum = 0;
  if constexpr (kHeld > 0) {
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column < a.shape.n) held[u] = load_group<kGroup>(a.x.at(at.row, at.begin + column), a.x.is_f32);
    }
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      if (static_cast<int64_t>(u * kLanes + lane) * kGroup < a.shape.n) sum = squares(held[u], a.x.is_f32, sum);
    }
  } else {
    for (int64_t column = lane * kGroup; column < a.shape.n; column += kLanes * kGroup) {
      sum = squares(load_group<kGroup>(a.x.at(at.row, at.begin + column), a.x.is_f32), a.x.is_f32, sum);
    }
  }
  const float r = inverse_root(a, team_sum<kLanes>(sum, scratch));
  if (lane == 0 && a.rstd) *static_cast<float*>(a.rstd.at(at.row, at.group)) = r;
  const auto finish = [&](const Group<kGroup>& g, int64_t column) {
    float w[kGroup];
    load_floats(w, a.weight.at(0, column), a.weight.is_f32);
    store_normed(a, at, column, g, w, r);
  };
  if constexpr (kHeld > 0) {
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column < a.shape.n) finish(held[u], column);
    }
  } else {
    for (int64_t column = lane * kGroup; column < a.shape.n; column += kLanes * kGroup) {
      finish(load_group<kGroup>(a.x.at(at.row, at.begin + column), a.x.is_f32), column);
    }
  }
}

}  // namespace

void rms_norm(const Launch& at, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x) {
  const int64_t n = x.cols / groups, rows = x.rows * groups;
  if (rows == 0 || n == 0) return;
  const NormArgs args{y, x, weight, rstd, copy_x, NormShape(rows, n, groups), eps};
  with_group_size(group_size({y, x, weight, copy_x}, n), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    with_team<kGroup>(
        n,
        [&](auto team) {
          constexpr int kLanes = decltype(team)::lanes;
          launch(at, ceil_div(rows, kThreads / kLanes * kRowsAtOnce), kThreads, 0, narrow_norm_kernel<kGroup, kLanes>, args);
        },
        [&](auto team) {
          constexpr int kLanes = decltype(team)::lanes, kHeld = decltype(team)::held;
          launch(at, ceil_div(rows, kThreads / kLanes), kThreads, kThreads / 32 * sizeof(float), norm_kernel<kGroup, kLanes, kHeld>, args);
        });
  });
}

}  // namespace rlhi::ops::cuda
