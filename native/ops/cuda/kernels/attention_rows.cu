// What both passes of attention's backward need of each row and head, in one pass over memory.
#include "ops/cuda/kernels/attention_plain.cuh"
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 256, kAtOnce = 4;  // items that a team loads before it uses the first

// kTeam lanes: kAtOnce items, of which each is a row of one head. An element's place in the sum depends on its column alone.
template <int kGroup, int kTeam>
RLHI_KERNEL(kThreads, 3)
void attention_rows_kernel(Rows out, Rows dout, Rows lse, int64_t n, Division heads, int head_dim, BackwardRows to) {
  static_assert(kTeam >= kAtOnce);
  constexpr int kTeams = kThreads / kTeam;
  const int lane = thread_index() % kTeam;
  const int64_t first = static_cast<int64_t>(block_index()) * (kTeams * kAtOnce) + thread_index() / kTeam;
  const char *out_at[kAtOnce], *dout_at[kAtOnce];
  float sum[kAtOnce] = {}, own_lse[1] = {};  // lane u writes item u
  RLHI_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {        // beyond the end the last item is read again, and not written
    const int64_t item = first + u * kTeams;
    const Place place = place_of(item < n ? item : n - 1, heads);
    out_at[u] = static_cast<const char*>(out.at(place.row, place.group * head_dim));
    dout_at[u] = static_cast<const char*>(dout.at(place.row, place.group * head_dim));
    if (lane == u) load_floats(own_lse, lse.at(place.row, place.group), lse.is_f32);
  }
  RLHI_UNROLL_BY(1)
  for (int column = lane * kGroup; column < head_dim; column += kTeam * kGroup) {
    Group<kGroup> a[kAtOnce], b[kAtOnce];
    RLHI_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      a[u] = load_group<kGroup>(out_at[u] + column * (out.is_f32 ? 4 : 2), out.is_f32);
      b[u] = load_group<kGroup>(dout_at[u] + column * (dout.is_f32 ? 4 : 2), dout.is_f32);
    }
    RLHI_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      float x[kGroup], y[kGroup];
      to_floats(x, a[u], out.is_f32);
      to_floats(y, b[u], dout.is_f32);
      RLHI_UNROLL
      for (int j = 0; j < kGroup; ++j) sum[u] = fused_multiply_add(x[j], y[j], sum[u]);
    }
  }
  RLHI_UNROLL
  for (int u = 0; u < kAtOnce; ++u) {
    sum[u] = lanes_sum<kTeam>(sum[u]);
    const int64_t item = first + u * kTeams;
    if (lane == u && item < n) to.delta[item] = sum[u], to.lse_log2[item] = own_lse[0] * kLog2e;
  }
}

}  // namespace

void backward_rows(const Launch& at, const AttentionBackwardArgs& b, const BackwardRows& to) {
  const AttentionArgs& a = b.forward;
  const int64_t n = a.q.rows * a.n_heads;
  with_group_size(group_size({a.out, b.dout}, a.head_dim), [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    const auto by = [&](auto team) {
      constexpr int kTeam = decltype(team)::value;
      launch(at, ceil_div(n, kThreads / kTeam * kAtOnce), kThreads, 0, attention_rows_kernel<kGroup, kTeam>, Rows(a.out), Rows(b.dout), Rows(a.lse), n,
             Division(a.n_heads), a.head_dim, to);
    };
    if (a.head_dim <= 8 * kGroup) by(GroupSize<8>());
    else if (a.head_dim <= 16 * kGroup) by(GroupSize<16>());
    else by(GroupSize<32>());
  });
}

}  // namespace rlhi::ops::cuda
