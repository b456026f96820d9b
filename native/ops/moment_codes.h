// The 8-bit codes of AdamW's moments: a value's size relative to its block's largest is one of a table's, which has the same number of
// steps at each of seven decades' worth of halvings: decade i of 7, [10^(i-7), 10^(i-6)], is cut into 2^i equal parts for the first moment
// and 2^(i+1) for the second, which needs no sign; a code stands for its part's middle, code 0 for zero and the last for 1.
// It is the dynamic map of Dettmers et al. 2022 (arXiv 2110.02861). Codes rise with the values, so a value's neighbours are two codes in a row.
#pragma once
#include <cstdint>

namespace rlhi::ops {

constexpr int kMomentDecades = 7;
constexpr int kFirstMomentTop = 128, kSecondMomentTop = 255;  // the code of 1; a first moment's beyond kFirstMomentTop are negative: 128 + size

struct MomentTable {
  float value[kSecondMomentTop + 1];   // of a size's code, 0 to the top
};

// `parts`: of the lowest decade, 1 or 2.
constexpr MomentTable moment_table(int parts) {
  MomentTable table = {};
  int code = 0;
  table.value[code++] = 0.0f;
  double lowest = 1e-7;
  for (int decade = 0; decade < kMomentDecades; ++decade, parts *= 2, lowest *= 10) {
    for (int i = 0; i < parts; ++i) table.value[code++] = static_cast<float>(lowest + 9 * lowest * (i + 0.5) / parts);
  }
  table.value[code] = 1.0f;
  return table;
}

}  // namespace rlhi::ops
