// Combinations of choices such that any two choices of two dimensions come together in one of them: few, where all would be too many.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace rlhi::test {

using Combination = std::vector<int64_t>;  // one choice a dimension

// Greedy and always the same. Combinations that cost more than `limit` are left out; pairs that have no cheaper one too.
std::vector<Combination> pairwise(const std::vector<std::vector<int64_t>>& choices,
                                  const std::function<double(const Combination&)>& cost, double limit);

// {1, 2} and N-1, N, N+1, 2N-1, 2N, 2N+1 for every block edge N, ascending.
std::vector<int64_t> around(const std::vector<int64_t>& edges);

}  // namespace rlhi::test
