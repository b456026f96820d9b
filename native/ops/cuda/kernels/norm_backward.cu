// RMSNorm's gradients in one pass: dx row by row, and dweight as partial sums of fixed runs of rows, added by a second kernel.
// With xhat = x rstd: dx = rstd (dy w - xhat mean(dy w xhat)), dweight += dy xhat.
#include "ops/cuda/kernels/column_sum.cuh"
#include "ops/cuda/kernels/norm.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = kNormThreads;

// Rows that share one partial sum of dweight: few enough that the blocks fill the device, enough that partial sums are a small
// part of the traffic.
int rows_per_partial(int64_t n) { return n <= 256 ? 512 : n <= 1024 ? 64 : 32; }

struct NormBackwardArgs {
  Rows dx, dy, x, weight, rstd;
  float* partial;    // [runs of rows_per_partial rows, n], or nullptr
  int rows_per_partial;
  NormShape shape;
  bool accumulate;
};

// The residual stream's case: bf16 rows, and a gradient that is f32 and added to. Kernels compiled for it have no branches on
// types between their loads.
bool is_residual(const NormBackwardArgs& a) {
  return a.dx.is_f32 && a.accumulate && !a.dy.is_f32 && !a.x.is_f32 && !a.weight.is_f32;
}
template <bool kResidual>
RLHI_DEVICE void assume(NormBackwardArgs& a) {
  if constexpr (kResidual) a.dx.is_f32 = a.accumulate = true, a.dy.is_f32 = a.x.is_f32 = a.weight.is_f32 = false;
}

// What a thread holds of one row in one group of columns.
template <int kGroup>
struct Held {
  Group<kGroup> x, dy, dx;  // dx as it was, where it is added to
};
template <int kGroup>
RLHI_DEVICE Held<kGroup> load_held(const NormBackwardArgs& a, const NormRow& at, int64_t column) {
  Held<kGroup> h{};
  h.x = load_group<kGroup>(a.x.at(at.row, at.begin + column), a.x.is_f32);
  h.dy = load_group<kGroup>(a.dy.at(at.row, at.begin + column), a.dy.is_f32);
  if (a.accumulate) h.dx = load_group<kGroup>(a.dx.at(at.row, at.begin + column), a.dx.is_f32);
  return h;
}
template <int kGroup>
RLHI_DEVICE float product(const NormBackwardArgs& a, const Held<kGroup>& h, const float (&w)[kGroup], float sum) {
  float x[kGroup], dy[kGroup];
  to_floats(x, h.x, a.x.is_f32);
  to_floats(dy, h.dy, a.dy.is_f32);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) sum += dy[j] * w[j] * x[j];
  return sum;
}
template <int kGroup>
RLHI_DEVICE void finish(const NormBackwardArgs& a, const NormRow& at, int64_t column, const Held<kGroup>& h, const float (&w)[kGroup],
                        float r, float mean, float (&dweight)[kGroup]) {
  float x[kGroup], dy[kGroup], dx[kGroup] = {};
  to_floats(x, h.x, a.x.is_f32);
  to_floats(dy, h.dy, a.dy.is_f32);
  if (a.accumulate) to_floats(dx, h.dx, a.dx.is_f32);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) {
    const float xhat = x[j] * r;
    dweight[j] = fused_multiply_add(dy[j], xhat, dweight[j]);
    dx[j] += (dy[j] * w[j] - xhat * mean) * r;
  }
  store_floats(a.dx.at(at.row, at.begin + column), a.dx.is_f32, dx);
}
RLHI_DEVICE float rstd_of(const NormBackwardArgs& a, const NormRow& at) { return *static_cast<const float*>(a.rstd.at(at.row, at.group)); }

// Teams of a block take the run's rows in turn; at the end their shares of dweight are added in order.
template <int kGroup, int kLanes>
RLHI_KERNEL(kThreads, 2)
void narrow_norm_backward_kernel(NormBackwardArgs a) {
  constexpr int kTeams = kThreads / kLanes;
  auto* shares = reinterpret_cast<float*>(shared_memory());  // [kTeams][n]
  const int team = thread_index() / kLanes;
  const int64_t column = thread_index() % kLanes * kGroup, begin = static_cast<int64_t>(block_index()) * a.rows_per_partial;
  const int64_t end = begin + a.rows_per_partial < a.shape.rows ? begin + a.rows_per_partial : a.shape.rows;
  const bool active = column < a.shape.n;
  float w[kGroup] = {}, dweight[kGroup] = {};
  if (active) load_floats(w, a.weight.at(0, column), a.weight.is_f32);
  for (int64_t step = begin; step < end; step += kTeams * kRowsAtOnce) {  // all threads alike
    const int64_t first = step + team;
    Held<kGroup> held[kRowsAtOnce] = {};
    float r[kRowsAtOnce] = {};
    RLHI_UNROLL
    for (int u = 0; u < kRowsAtOnce; ++u) {
      if (!active || first + u * kTeams >= end) continue;
      const NormRow at = norm_row(a.shape, first + u * kTeams);
      held[u] = load_held<kGroup>(a, at, column);
      r[u] = rstd_of(a, at);
    }
    RLHI_UNROLL
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const float mean = lanes_sum<kLanes>(product(a, held[u], w, 0.0f)) * r[u] * a.shape.inverse_n;
      if (!active || first + u * kTeams >= end) continue;
      finish(a, norm_row(a.shape, first + u * kTeams), column, held[u], w, r[u], mean, dweight);
    }
  }
  if (!a.partial) return;  // all threads alike
  if (active) {
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) shares[team * a.shape.n + column + j] = dweight[j];
  }
  sync_threads();
  for (int64_t c = thread_index(); c < a.shape.n; c += kThreads) {
    float sum = 0;
    for (int t = 0; t < kTeams; ++t) sum += shares[t * a.shape.n + c];
    a.partial[block_index() * a.shape.n + c] = sum;
  }
}

// A thread's columns are the same in all of the run's rows, so its share of dweight stays in registers.
template <int kGroup, int kLanes, int kHeld, bool kResidual>
RLHI_KERNEL(kThreads, kHeld * kGroup > (kResidual ? 20 : 16) ? 1 : 2)
void norm_backward_kernel(NormBackwardArgs a) {
  assume<kResidual>(a);
  constexpr int kTeams = kThreads / kLanes;
  auto* scratch = reinterpret_cast<float*>(shared_memory());  // block_sum's, then [kTeams][n] shares
  const int lane = thread_index() % kLanes, team = thread_index() / kLanes;
  const int64_t begin = static_cast<int64_t>(block_index()) * a.rows_per_partial;
  const int64_t end = begin + a.rows_per_partial < a.shape.rows ? begin + a.rows_per_partial : a.shape.rows;
  float dweight[kHeld][kGroup] = {};
  for (int64_t row = begin + team; row < end; row += kTeams) {  // all threads of a team alike
    const NormRow at = norm_row(a.shape, row);
    Held<kGroup> held[kHeld] = {};
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column < a.shape.n) held[u] = load_held<kGroup>(a, at, column);
    }
    const float r = rstd_of(a, at);
    float sum = 0, w[kGroup];
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column >= a.shape.n) continue;
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      sum = product(a, held[u], w, sum);
    }
    const float mean = team_sum<kLanes>(sum, scratch) * r * a.shape.inverse_n;
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column >= a.shape.n) continue;
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      finish(a, at, column, held[u], w, r, mean, dweight[u]);
    }
  }
  if (!a.partial) return;  // all threads alike
  float* partial = a.partial + static_cast<int64_t>(block_index()) * a.shape.n;
  if constexpr (kTeams > 1) {
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column >= a.shape.n) continue;
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) scratch[team * a.shape.n + column + j] = dweight[u][j];
    }
    sync_threads();
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      float sum = 0;
      for (int t = 0; t < kTeams; ++t) sum += scratch[t * a.shape.n + column];
      partial[column] = sum;
    }
  } else {
    RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kLanes + lane) * kGroup;
      if (column >= a.shape.n) continue;
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) partial[column + j] = dweight[u][j];
    }
  }
}

// Rows too wide for registers: read twice, dweight's shares added in memory.
RLHI_KERNEL(kThreads, 2)
void widest_norm_backward_kernel(NormBackwardArgs a) {
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int64_t first = static_cast<int64_t>(block_index()) * a.rows_per_partial;
  float* partial = a.partial ? a.partial + static_cast<int64_t>(block_index()) * a.shape.n : nullptr;
  for (int i = 0; i < a.rows_per_partial && first + i < a.shape.rows; ++i) {
    const NormRow at = norm_row(a.shape, first + i);
    const float r = rstd_of(a, at);
    float sum = 0, w[1];
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      sum = product(a, load_held<1>(a, at, column), w, sum);
    }
    const float mean = team_sum<kThreads>(sum, scratch) * r * a.shape.inverse_n;
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      float dweight[1] = {partial && i > 0 ? partial[column] : 0.0f};
      finish(a, at, column, load_held<1>(a, at, column), w, r, mean, dweight);
      if (partial) partial[column] = dweight[0];
    }
  }
}

}  // namespace

size_t rms_norm_backward_scratch(int64_t rows, int64_t cols, int groups) {
  const int64_t n = cols / groups;
  return static_cast<size_t>(ceil_div(rows * groups, rows_per_partial(n)) * n) * sizeof(float);
}

void rms_norm_backward(const Launch& at, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                       bool accumulate, void* scratch) {
  const int64_t n = x.cols / groups, rows = x.rows * groups;
  if (rows == 0 || n == 0) return;
  const int64_t runs = ceil_div(rows, rows_per_partial(n));
  auto* partial = dweight ? static_cast<float*>(scratch) : nullptr;
  const NormBackwardArgs args{dx, dy, x, weight, rstd, partial, rows_per_partial(n), NormShape(rows, n, groups), accumulate};
  with_group_size(group_size({dx, dy, x, weight}, n), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    with_team<kGroup>(
        n,
        [&](auto team) {
          constexpr int kLanes = decltype(team)::lanes;
          const size_t shared = static_cast<size_t>(kThreads / kLanes * n) * sizeof(float);
          launch(at, runs, kThreads, shared, narrow_norm_backward_kernel<kGroup, kLanes>, args);
        },
        [&](auto team) {
          constexpr int kLanes = decltype(team)::lanes, kHeld = decltype(team)::held, kTeams = kThreads / kLanes;
          const size_t shared = static_cast<size_t>(kTeams > 1 ? kTeams * n : kThreads / 32) * sizeof(float);
          if constexpr (kHeld == 0) {
            launch(at, runs, kThreads, shared, widest_norm_backward_kernel, args);
          } else {
            if constexpr (kGroup == 4) {
              if (is_residual(args)) return launch(at, runs, kThreads, shared, norm_backward_kernel<kGroup, kLanes, kHeld, true>, args);
            }
            launch(at, runs, kThreads, shared, norm_backward_kernel<kGroup, kLanes, kHeld, false>, args);
          }
        });
  });
  if (partial) add_partials(at, static_cast<float*>(dweight.data), partial, runs, n);
}

}  // namespace rlhi::ops::cuda
