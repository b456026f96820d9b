// RMSNorm forward and backward: one pass over memory, a row's elements in registers between its sum and its use.
//
// A norm's row here is one group of columns of one tensor row (with groups, heads are normed by themselves): row r is tensor
// row r / groups, columns (r % groups) * n and on. Rows up to 1024 wide take a warp, wider ones a block. An element's place
// in the sum depends on its column alone.
#include "ops/cuda/kernels/column_sum.cuh"
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpRowElements = 1024;

// Rows that share one partial sum of dweight: few enough that the blocks fill the device, enough that partial sums are a small
// part of the traffic.
inline int rows_per_partial(int64_t n) { return n <= 256 ? 128 : n <= kWarpRowElements ? 32 : 16; }

struct NormShape {
  int64_t rows;      // of the norm: tensor rows * groups
  int64_t n;         // columns of a group
  int groups;
};
struct NormArgs {
  Rows y, x, weight, rstd, copy_x;
  NormShape shape;
  float eps;
};

template <int kRowThreads>
RLHI_DEVICE float row_sum(float v, float* scratch) {
  if constexpr (kRowThreads == 32) return lanes_sum(v);
  else return block_sum<kRowThreads>(v, scratch);
}

// kRowThreads threads a row; kHeld groups a thread are kept in registers, wider rows are read twice (kHeld 0).
template <int kGroup, int kRowThreads, int kHeld>
RLHI_KERNEL(kThreads, 2)
void norm_kernel(NormArgs a) {
  constexpr int kRowsPerBlock = kThreads / kRowThreads;
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int64_t row = static_cast<int64_t>(block_index()) * kRowsPerBlock + thread_index() / kRowThreads;
  if (kRowThreads == 32 && row >= a.shape.rows) return;  // a warp leaves as a whole, and no barrier of the block follows
  const int64_t tensor_row = row / a.shape.groups, begin = row % a.shape.groups * a.shape.n;
  const int lane = thread_index() % kRowThreads;
  Group<kGroup> held[kHeld > 0 ? kHeld : 1] = {};
  float sum = 0;
  const auto add_squares = [&](const Group<kGroup>& g) {
    float x[kGroup];
    to_floats(x, g, a.x.is_f32);
RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) sum = fused_multiply_add(x[j], x[j], sum);
  };
  if constexpr (kHeld > 0) {
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column < a.shape.n) held[u] = load_group<kGroup>(a.x.at(tensor_row, begin + column), a.x.is_f32);
    }
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      if (static_cast<int64_t>(u * kRowThreads + lane) * kGroup < a.shape.n) add_squares(held[u]);
    }
  } else {
    for (int64_t column = lane * kGroup; column < a.shape.n; column += kRowThreads * kGroup) {
      add_squares(load_group<kGroup>(a.x.at(tensor_row, begin + column), a.x.is_f32));
    }
  }
  const float r = 1.0f / square_root(row_sum<kRowThreads>(sum, scratch) / static_cast<float>(a.shape.n) + a.eps);
  if (lane == 0 && a.rstd) *static_cast<float*>(a.rstd.at(tensor_row, row % a.shape.groups)) = r;
  const auto finish = [&](const Group<kGroup>& g, int64_t column) {
    float x[kGroup], w[kGroup];
    to_floats(x, g, a.x.is_f32);
    load_floats(w, a.weight.at(0, column), a.weight.is_f32);
    if (a.copy_x) store_floats(a.copy_x.at(tensor_row, begin + column), a.copy_x.is_f32, x);
RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) x[j] = x[j] * r * w[j];
    store_floats(a.y.at(tensor_row, begin + column), a.y.is_f32, x);
  };
  if constexpr (kHeld > 0) {
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column < a.shape.n) finish(held[u], column);
    }
  } else {
    for (int64_t column = lane * kGroup; column < a.shape.n; column += kRowThreads * kGroup) {
      finish(load_group<kGroup>(a.x.at(tensor_row, begin + column), a.x.is_f32), column);
    }
  }
}

struct NormBackwardArgs {
  Rows dx, dy, x, weight, rstd;
  float* partial;    // [chunks of rows_per_partial rows, n], or nullptr
  int rows_per_partial;
  NormShape shape;
  bool accumulate;
};

// A block takes rows_per_partial rows; a thread's columns are the same in all of them, so its share of dweight is in registers.
// With a warp a row, the block's warps take rows in turn and their shares are added at the end, in order.
template <int kGroup, int kRowThreads, int kHeld>
RLHI_KERNEL(kThreads, kHeld * kGroup >= 32 ? 1 : 2)
void norm_backward_kernel(NormBackwardArgs a) {
  constexpr int kRowsAtOnce = kThreads / kRowThreads;
  auto* scratch = reinterpret_cast<float*>(shared_memory());  // block_sum's, then [kRowsAtOnce][n] shares
  const int lane = thread_index() % kRowThreads, turn = thread_index() / kRowThreads;
  const int64_t first = static_cast<int64_t>(block_index()) * a.rows_per_partial;
  float dweight[kHeld][kGroup] = {};
  for (int i = turn; i < a.rows_per_partial; i += kRowsAtOnce) {
    const int64_t row = first + i;
    if (row >= a.shape.rows) break;  // all threads of the row's team alike
    const int64_t tensor_row = row / a.shape.groups, begin = row % a.shape.groups * a.shape.n;
    Group<kGroup> held_x[kHeld] = {}, held_dy[kHeld] = {};
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column >= a.shape.n) continue;
      held_x[u] = load_group<kGroup>(a.x.at(tensor_row, begin + column), a.x.is_f32);
      held_dy[u] = load_group<kGroup>(a.dy.at(tensor_row, begin + column), a.dy.is_f32);
    }
    const float r = *static_cast<const float*>(a.rstd.at(tensor_row, row % a.shape.groups));
    float sum = 0;
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column >= a.shape.n) continue;
      float x[kGroup], dy[kGroup], w[kGroup];
      to_floats(x, held_x[u], a.x.is_f32);
      to_floats(dy, held_dy[u], a.dy.is_f32);
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) sum += dy[j] * w[j] * x[j];
    }
    const float mean = row_sum<kRowThreads>(sum, scratch) * r / static_cast<float>(a.shape.n);
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column >= a.shape.n) continue;
      float x[kGroup], dy[kGroup], w[kGroup], dx[kGroup] = {};
      to_floats(x, held_x[u], a.x.is_f32);
      to_floats(dy, held_dy[u], a.dy.is_f32);
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      void* to = a.dx.at(tensor_row, begin + column);
      if (a.accumulate) load_floats(dx, to, a.dx.is_f32);
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) {
        const float xhat = x[j] * r;
        dweight[u][j] = fused_multiply_add(dy[j], xhat, dweight[u][j]);
        dx[j] += (dy[j] * w[j] - xhat * mean) * r;
      }
      store_floats(to, a.dx.is_f32, dx);
    }
  }
  if (!a.partial) return;  // all threads alike
  float* partial = a.partial + static_cast<int64_t>(block_index()) * a.shape.n;
  if constexpr (kRowsAtOnce > 1) {
    sync_threads();
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column >= a.shape.n) continue;
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) scratch[turn * a.shape.n + column + j] = dweight[u][j];
    }
    sync_threads();
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      float sum = 0;
      for (int t = 0; t < kRowsAtOnce; ++t) sum += scratch[t * a.shape.n + column];
      partial[column] = sum;
    }
  } else {
RLHI_UNROLL
    for (int u = 0; u < kHeld; ++u) {
      const int64_t column = static_cast<int64_t>(u * kRowThreads + lane) * kGroup;
      if (column >= a.shape.n) continue;
RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) partial[column + j] = dweight[u][j];
    }
  }
}

// Rows too wide for registers: read twice, dweight's shares added in memory, one block a chunk of rows.
RLHI_KERNEL(kThreads, 2)
void wide_norm_backward_kernel(NormBackwardArgs a) {
  auto* scratch = reinterpret_cast<float*>(shared_memory());
  const int64_t first = static_cast<int64_t>(block_index()) * a.rows_per_partial;
  float* partial = a.partial ? a.partial + static_cast<int64_t>(block_index()) * a.shape.n : nullptr;
  for (int i = 0; i < a.rows_per_partial && first + i < a.shape.rows; ++i) {
    const int64_t row = first + i, tensor_row = row / a.shape.groups, begin = row % a.shape.groups * a.shape.n;
    const float r = *static_cast<const float*>(a.rstd.at(tensor_row, row % a.shape.groups));
    float sum = 0, x[1], dy[1], w[1], dx[1];
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      load_floats(x, a.x.at(tensor_row, begin + column), a.x.is_f32);
      load_floats(dy, a.dy.at(tensor_row, begin + column), a.dy.is_f32);
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      sum += dy[0] * w[0] * x[0];
    }
    const float mean = row_sum<kThreads>(sum, scratch) * r / static_cast<float>(a.shape.n);
    for (int64_t column = thread_index(); column < a.shape.n; column += kThreads) {
      load_floats(x, a.x.at(tensor_row, begin + column), a.x.is_f32);
      load_floats(dy, a.dy.at(tensor_row, begin + column), a.dy.is_f32);
      load_floats(w, a.weight.at(0, column), a.weight.is_f32);
      const float xhat = x[0] * r;
      if (partial) partial[column] = fused_multiply_add(dy[0], xhat, i > 0 ? partial[column] : 0.0f);
      dx[0] = 0;
      if (a.accumulate) load_floats(dx, a.dx.at(tensor_row, begin + column), a.dx.is_f32);
      dx[0] += (dy[0] * w[0] - xhat * mean) * r;
      store_floats(a.dx.at(tensor_row, begin + column), a.dx.is_f32, dx);
    }
  }
}

// f(threads a row, groups held a thread); held 0: more than registers take.
template <int kThreadsARow, int kGroupsHeld>
struct Team {
  static constexpr int threads = kThreadsARow, held = kGroupsHeld;
};
template <int kGroup, class F>
void with_team(int64_t n, const F& f) {
  const int64_t groups = n / kGroup;
  if (groups <= 32) f(Team<32, 1>());
  else if (n <= kWarpRowElements && groups <= 128) f(Team<32, 4>());
  else if (groups <= 512) f(Team<kThreads, 2>());
  else if (groups <= 1024) f(Team<kThreads, 4>());
  else if (groups <= 2048) f(Team<kThreads, 8>());
  else f(Team<kThreads, 0>());
}

}  // namespace

void rms_norm(const Launch& at, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x) {
  const int64_t n = x.cols / groups, rows = x.rows * groups;
  if (rows == 0 || n == 0) return;
  const NormArgs args{y, x, weight, rstd, copy_x, {rows, n, groups}, eps};
  with_group_size(group_size({y, x, weight, copy_x}, n), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    with_team<kGroup>(n, [&](auto team) {
      constexpr int kRowThreads = decltype(team)::threads, kHeld = decltype(team)::held;
      launch(at, ceil_div(rows, kThreads / kRowThreads), kThreads, kThreads / 32 * sizeof(float), norm_kernel<kGroup, kRowThreads, kHeld>, args);
    });
  });
}

size_t rms_norm_backward_scratch(int64_t rows, int64_t cols, int groups) {
  return static_cast<size_t>(ceil_div(rows * groups, rows_per_partial(cols / groups)) * (cols / groups)) * sizeof(float);
}

void rms_norm_backward(const Launch& at, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                       bool accumulate, void* scratch) {
  const int64_t n = x.cols / groups, rows = x.rows * groups;
  if (rows == 0 || n == 0) return;
  const int64_t chunks = ceil_div(rows, rows_per_partial(n));
  auto* partial = dweight ? static_cast<float*>(scratch) : nullptr;
  const NormBackwardArgs args{dx, dy, x, weight, rstd, partial, rows_per_partial(n), {rows, n, groups}, accumulate};
  with_group_size(group_size({dx, dy, x, weight}, n), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    with_team<kGroup>(n, [&](auto team) {
      constexpr int kRowThreads = decltype(team)::threads, kHeld = decltype(team)::held;
      constexpr int kRowsAtOnce = kThreads / kRowThreads;
      const size_t shared = static_cast<size_t>(kRowsAtOnce > 1 ? kRowsAtOnce * n : kThreads / 32) * sizeof(float);
      if constexpr (kHeld > 0) launch(at, chunks, kThreads, shared, norm_backward_kernel<kGroup, kRowThreads, kHeld>, args);
      else launch(at, chunks, kThreads, shared, wide_norm_backward_kernel, args);
    });
  });
  if (partial) add_partials(at, static_cast<float*>(dweight.data), partial, chunks, n);
}

}  // namespace rlhi::ops::cuda
