// How RMSNorm's rows are shared out among threads. A norm's row here is one group of columns of one tensor row (with groups,
// heads are normed by themselves): row r is tensor row r / groups, columns (r % groups) * n and on.
//
//  narrow  (a lane holds one group of elements)  teams of 4 to 32 lanes; a team takes kRowsAtOnce rows, all loaded before the
//          first is used, because one load a thread does not fill the memory's pipe
//  wide    a team of a warp or of a block takes a row and keeps it in registers between its sum and its use
//  widest  more than registers hold: a block reads the row twice
//
// An element's place in a row's sum depends on its column alone.
#pragma once
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {

constexpr int kNormThreads = 256, kRowsAtOnce = 4;

struct NormShape {
  int64_t rows;      // of the norm: tensor rows * groups
  int64_t n;         // columns of a group
  Division groups;   // of a tensor row
  float inverse_n;

  NormShape(int64_t all_rows, int64_t width, int n_groups)
      : rows(all_rows), n(width), groups(n_groups), inverse_n(1.0f / static_cast<float>(width)) {}
};
struct NormRow {
  int64_t row, begin;  // of the tensor; its first column
  int group;
};
RLHI_DEVICE NormRow norm_row(const NormShape& shape, int64_t row) {
  if (shape.groups.by == 1) return {row, 0, 0};
  const Place p = place_of(row, shape.groups);
  return {p.row, p.group * shape.n, static_cast<int>(p.group)};
}

template <int kTeam>
RLHI_DEVICE float team_sum(float v, float* scratch) {
  if constexpr (kTeam <= 32) return lanes_sum<kTeam>(v);
  else return block_sum<kTeam>(v, scratch);
}

// f(team): team::lanes threads a row, team::held groups a thread; held 0: more than registers take.
template <int kLanes, int kHeld>
struct Team {
  static constexpr int lanes = kLanes, held = kHeld;
};
template <int kGroup, class Narrow, class Wide>
void with_team(int64_t n, const Narrow& narrow, const Wide& wide) {
  const int64_t groups = n / kGroup;
  if (groups <= 4) narrow(Team<4, 1>());
  else if (groups <= 8) narrow(Team<8, 1>());
  else if (groups <= 16) narrow(Team<16, 1>());
  else if (groups <= 32) narrow(Team<32, 1>());
  else if (groups <= 64) wide(Team<32, 2>());
  else if (groups <= 96) wide(Team<32, 3>());
  else if (groups <= 160) wide(Team<32, 5>());
  else if (groups <= 256) wide(Team<32, 8>());
  else if (groups <= 512) wide(Team<kNormThreads, 2>());
  else if (groups <= 1024) wide(Team<kNormThreads, 4>());
  else if (groups <= 2048) wide(Team<kNormThreads, 8>());
  else wide(Team<kNormThreads, 0>());
}

}  // namespace rlhi::ops::cuda
