#include "test/op_table/pairwise.h"

#include <algorithm>
#include <set>

namespace rlhi::test {
namespace {

class Pairs {
 public:
  explicit Pairs(const std::vector<std::vector<int64_t>>& choices) : choices_(choices) {
    for (const auto& c : choices) {
      first_.push_back(width_);
      width_ += c.size();
    }
    wanted_.assign(width_ * width_, 1);
  }
  bool wanted(size_t d, size_t i, size_t e, size_t j) const { return wanted_[at(d, i, e, j)] != 0; }
  void drop(size_t d, size_t i, size_t e, size_t j) { wanted_[at(d, i, e, j)] = 0; }

 private:
  size_t at(size_t d, size_t i, size_t e, size_t j) const { return (first_[d] + i) * width_ + first_[e] + j; }
  const std::vector<std::vector<int64_t>>& choices_;
  std::vector<size_t> first_;
  size_t width_ = 0;
  std::vector<char> wanted_;   // of d < e
};

constexpr size_t kOpen = ~size_t{0};

}  // namespace

std::vector<Combination> pairwise(const std::vector<std::vector<int64_t>>& choices,
                                  const std::function<double(const Combination&)>& cost, double limit) {
  const size_t n = choices.size();
  Pairs pairs(choices);
  std::vector<Combination> all;
  size_t turn = 0;               // ties go to another choice each time
  // Fills the open dimensions, each with the choice that makes most new pairs; the least choice stands for what is open yet.
  const auto complete = [&](std::vector<size_t> taken) {
    const auto valued = [&](const std::vector<size_t>& t) {
      Combination c(n);
      for (size_t d = 0; d < n; ++d) c[d] = choices[d][t[d] == kOpen ? 0 : t[d]];
      return c;
    };
    if (cost(valued(taken)) > limit) return;
    for (size_t d = 0; d < n; ++d) {
      if (taken[d] != kOpen) continue;
      size_t best = 0;
      int most = -1;
      for (size_t k = 0; k < choices[d].size(); ++k) {
        const size_t i = (k + turn) % choices[d].size();
        int made = 0;
        for (size_t e = 0; e < n; ++e) {
          if (e == d || taken[e] == kOpen) continue;
          made += (d < e ? pairs.wanted(d, i, e, taken[e]) : pairs.wanted(e, taken[e], d, i)) ? 1 : 0;
        }
        if (made <= most) continue;
        std::vector<size_t> with = taken;
        with[d] = i;
        if (cost(valued(with)) > limit) continue;
        most = made, best = i;
      }
      taken[d] = best;
    }
    ++turn;
    for (size_t d = 0; d < n; ++d) {
      for (size_t e = d + 1; e < n; ++e) pairs.drop(d, taken[d], e, taken[e]);
    }
    all.push_back(valued(taken));
  };
  for (size_t d = 0; d < n; ++d) {
    for (size_t e = d + 1; e < n; ++e) {
      for (size_t i = 0; i < choices[d].size(); ++i) {
        for (size_t j = 0; j < choices[e].size(); ++j) {
          if (!pairs.wanted(d, i, e, j)) continue;
          std::vector<size_t> taken(n, kOpen);
          taken[d] = i, taken[e] = j;
          complete(taken);
        }
      }
    }
  }
  return all;
}

std::vector<int64_t> around(const std::vector<int64_t>& edges) {
  std::set<int64_t> all{1, 2};
  for (const int64_t n : edges) {
    for (const int64_t x : {n - 1, n, n + 1, 2 * n - 1, 2 * n, 2 * n + 1}) {
      if (x > 0) all.insert(x);
    }
  }
  return {all.begin(), all.end()};
}

}  // namespace rlhi::test
