// Rotation and gated activation: element by element, one pass over memory.
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256;

// Thread: kGroup neighbouring pairs (x1, x2) of one head. cos_sin's row holds the cosines, then the sines.
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void rope_kernel(Rows x, int64_t pairs, int64_t per_row, int head_dim, Rows cos_sin, const int32_t* positions, float direction) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= pairs) return;
  const Place p = place_of(i, per_row);
  const int half = head_dim / 2, per_head = half / kGroup;
  const int64_t head = p.group / per_head, at = (p.group - head * per_head) * kGroup, first = head * head_dim + at;
  float x1[kGroup], x2[kGroup], c[kGroup], s[kGroup];
  load_floats(x1, x.at(p.row, first), x.is_f32);
  load_floats(x2, x.at(p.row, first + half), x.is_f32);
  const int64_t position = positions[p.row];
  load_floats(c, cos_sin.at(position, at), true);
  load_floats(s, cos_sin.at(position, half + at), true);
RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) {
    const float sine = s[j] * direction, first_half = x1[j];
    x1[j] = first_half * c[j] - x2[j] * sine;
    x2[j] = x2[j] * c[j] + first_half * sine;
  }
  store_floats(x.at(p.row, first), x.is_f32, x1);
  store_floats(x.at(p.row, first + half), x.is_f32, x2);
}

RLHI_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void swiglu_kernel(Rows out, Rows gate_up, int64_t n, int64_t per_row) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const Place p = place_of(i, per_row);
  float gate[kGroup], up[kGroup];
  load_floats(gate, gate_up.at(p.row, p.group * kGroup), gate_up.is_f32);
  load_floats(up, gate_up.at(p.row, (per_row + p.group) * kGroup), gate_up.is_f32);
RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) gate[j] = gate[j] * sigmoid(gate[j]) * up[j];
  store_floats(out.at(p.row, p.group * kGroup), out.is_f32, gate);
}

// dgate = dout up s (1 + gate (1 - s)), dup = dout gate s with s = sigmoid(gate)
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void swiglu_backward_kernel(Rows dgate_up, Rows dout, Rows gate_up, int64_t n, int64_t per_row) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const Place p = place_of(i, per_row);
  const int64_t gate_at = p.group * kGroup, up_at = (per_row + p.group) * kGroup;
  float gate[kGroup], up[kGroup], d[kGroup];
  load_floats(gate, gate_up.at(p.row, gate_at), gate_up.is_f32);
  load_floats(up, gate_up.at(p.row, up_at), gate_up.is_f32);
  load_floats(d, dout.at(p.row, gate_at), dout.is_f32);
RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) {
    const float s = sigmoid(gate[j]), g = gate[j];
    gate[j] = d[j] * up[j] * s * fused_multiply_add(g, 1.0f - s, 1.0f);
    up[j] = d[j] * g * s;
  }
  store_floats(dgate_up.at(p.row, gate_at), dgate_up.is_f32, gate);
  store_floats(dgate_up.at(p.row, up_at), dgate_up.is_f32, up);
}

}  // namespace

void rope(const Launch& at, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction) {
  if (x.rows == 0 || x.cols == 0) return;
  // the angles are f32: four at once
  with_group_size(group_size({x, cos_sin}, head_dim / 2), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = x.cols / 2 / kGroup, pairs = x.rows * per_row;
    launch(at, ceil_div(pairs, kThreads), kThreads, 0, rope_kernel<kGroup>, Rows(x), pairs, per_row, head_dim, Rows(cos_sin), positions,
           direction < 0 ? -1.0f : 1.0f);
  });
}

void swiglu(const Launch& at, Tensor out, Tensor gate_up) {
  if (out.rows == 0 || out.cols == 0) return;
  with_group_size(group_size({out, gate_up}, out.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = out.cols / kGroup, n = out.rows * per_row;
    launch(at, ceil_div(n, kThreads), kThreads, 0, swiglu_kernel<kGroup>, Rows(out), Rows(gate_up), n, per_row);
  });
}

void swiglu_backward(const Launch& at, Tensor dgate_up, Tensor dout, Tensor gate_up) {
  if (dout.rows == 0 || dout.cols == 0) return;
  with_group_size(group_size({dgate_up, dout, gate_up}, dout.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = dout.cols / kGroup, n = dout.rows * per_row;
    launch(at, ceil_div(n, kThreads), kThreads, 0, swiglu_backward_kernel<kGroup>, Rows(dgate_up), Rows(dout), Rows(gate_up), n, per_row);
  });
}

}  // namespace rlhi::ops::cuda
