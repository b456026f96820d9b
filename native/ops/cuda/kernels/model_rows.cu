// Rotation and gated activation: element by element, one pass over memory.
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256;

// kGroup neighbouring angles; f32 come four at a time.
template <int kGroup>
RLHI_DEVICE void load_angles(float (&x)[kGroup], const Rows& table, int64_t row, int64_t column) {
  constexpr int kAtOnce = kGroup < 4 ? kGroup : 4;
  RLHI_UNROLL
  for (int i = 0; i < kGroup; i += kAtOnce) {
    load_floats(reinterpret_cast<float(&)[kAtOnce]>(x[i]), table.at(row, column + i), true);
  }
}

constexpr int kHeadsAtOnce = 2;  // share a thread's angles

// Items of a row: heads by kHeadsAtOnce, then groups of a head's pairs.
struct RopeItems {
  Division per_row, per_heads;
};

// Thread: kGroup neighbouring pairs (x1, x2) of kHeadsAtOnce heads. cos_sin's row holds the cosines, then the sines.
template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void rope_kernel(Rows x, int64_t n, RopeItems items, int heads, int half, Rows cos_sin, const int32_t* positions, float direction) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  const Place row = place_of(i < n ? i : n - 1, items.per_row), item = place_of(row.group, items.per_heads);
  const int first_head = static_cast<int>(item.row) * kHeadsAtOnce, at = static_cast<int>(item.group) * kGroup;
  // Where there is no second head the first is read for it, and not written again.
  void *low_at[kHeadsAtOnce], *high_at[kHeadsAtOnce];
  Group<kGroup> low[kHeadsAtOnce] = {}, high[kHeadsAtOnce] = {};
  RLHI_UNROLL
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    low_at[h] = x.at(row.row, least(first_head + h, heads - 1) * 2 * half + at);
    high_at[h] = static_cast<char*>(low_at[h]) + half * (x.is_f32 ? 4 : 2);
    if (i >= n) continue;  // not the last item's: it is written in place
    low[h] = load_group<kGroup>(low_at[h], x.is_f32);
    high[h] = load_group<kGroup>(high_at[h], x.is_f32);
  }
  sync_warp();  // all of that is on its way before the position is waited for
  const int64_t position = positions[row.row];
  float c[kGroup], s[kGroup];
  load_angles(c, cos_sin, position, at);
  load_angles(s, cos_sin, position, half + at);
  RLHI_UNROLL
  for (int h = 0; h < kHeadsAtOnce; ++h) {
    if (i >= n || (h > 0 && first_head + h >= heads)) continue;
    float x1[kGroup], x2[kGroup];
    to_floats(x1, low[h], x.is_f32);
    to_floats(x2, high[h], x.is_f32);
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) {
      const float sine = s[j] * direction, first_half = x1[j];
      x1[j] = first_half * c[j] - x2[j] * sine;
      x2[j] = x2[j] * c[j] + first_half * sine;
    }
    store_floats(low_at[h], x.is_f32, x1);
    store_floats(high_at[h], x.is_f32, x2);
  }
}

template <int kGroup>
RLHI_KERNEL(kThreads, 4)
void swiglu_kernel(Rows out, Rows gate_up, int64_t n, Division per_row) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const Place p = place_of(i, per_row);
  float gate[kGroup], up[kGroup];
  load_floats(gate, gate_up.at(p.row, p.group * kGroup), gate_up.is_f32);
  load_floats(up, gate_up.at(p.row, (per_row.by + p.group) * kGroup), gate_up.is_f32);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) gate[j] = gated(gate[j], up[j]);
  store_floats(out.at(p.row, p.group * kGroup), out.is_f32, gate);
}

// dgate = dout up s (1 + gate (1 - s)), dup = dout gate s with s = sigmoid(gate); kOut: out = gate s up
template <int kGroup, bool kOut>
RLHI_KERNEL(kThreads, 4)
void swiglu_backward_kernel(Rows dgate_up, Rows dout, Rows gate_up, Rows out, int64_t n, Division per_row) {
  const int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (i >= n) return;
  const Place p = place_of(i, per_row);
  const int64_t gate_at = p.group * kGroup, up_at = (per_row.by + p.group) * kGroup;
  float gate[kGroup], up[kGroup], d[kGroup];
  load_floats(gate, gate_up.at(p.row, gate_at), gate_up.is_f32);
  load_floats(up, gate_up.at(p.row, up_at), gate_up.is_f32);
  load_floats(d, dout.at(p.row, gate_at), dout.is_f32);
  RLHI_UNROLL
  for (int j = 0; j < kGroup; ++j) {
    const float s = sigmoid(gate[j]), g = gate[j], u = up[j], slope = d[j];
    gate[j] = slope * u * s * fused_multiply_add(g, 1.0f - s, 1.0f);
    up[j] = slope * g * s;
    d[j] = g * s * u;
  }
  if (kOut) store_floats(out.at(p.row, gate_at), out.is_f32, d);
  store_floats(dgate_up.at(p.row, gate_at), dgate_up.is_f32, gate);
  store_floats(dgate_up.at(p.row, up_at), dgate_up.is_f32, up);
}

}  // namespace

void rope(const Launch& at, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction) {
  if (x.rows == 0 || x.cols == 0) return;
  const int heads = static_cast<int>(x.cols / head_dim);
  const int size = group_size({cos_sin}, head_dim / 2) > 1 ? group_size({x}, head_dim / 2) : 1;
  with_group_size(size, [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_heads = head_dim / 2 / kGroup, per_row = ceil_div(heads, kHeadsAtOnce) * per_heads, n = x.rows * per_row;
    launch(at, ceil_div(n, kThreads), kThreads, 0, rope_kernel<kGroup>, Rows(x), n, RopeItems{per_row, per_heads}, heads, head_dim / 2,
           Rows(cos_sin), positions, direction < 0 ? -1.0f : 1.0f);
  });
}

void swiglu(const Launch& at, Tensor out, Tensor gate_up) {
  if (out.rows == 0 || out.cols == 0) return;
  with_group_size(group_size({out, gate_up}, out.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = out.cols / kGroup, n = out.rows * per_row;
    launch(at, ceil_div(n, kThreads), kThreads, 0, swiglu_kernel<kGroup>, Rows(out), Rows(gate_up), n, Division(per_row));
  });
}

void swiglu_backward(const Launch& at, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out) {
  if (dout.rows == 0 || dout.cols == 0) return;
  with_group_size(group_size({dgate_up, dout, gate_up, out}, dout.cols), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const int64_t per_row = dout.cols / kGroup, n = dout.rows * per_row;
    const auto kernel = out ? swiglu_backward_kernel<kGroup, true> : swiglu_backward_kernel<kGroup, false>;
    launch(at, ceil_div(n, kThreads), kThreads, 0, kernel, Rows(dgate_up), Rows(dout), Rows(gate_up), Rows(out), n, Division(per_row));
  });
}

}  // namespace rlhi::ops::cuda
