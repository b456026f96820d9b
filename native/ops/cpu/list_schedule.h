// The thread pool's rule, played with a clock for each thread: tasks in order to whoever is free first.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <queue>
#include <vector>

namespace rlhi::ops {

// When the last task ends.
inline double end_of(const std::vector<double>& costs, int64_t threads) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at(std::greater<>(),
                                                                           std::vector<double>(static_cast<size_t>(threads), 0.0));
  double last = 0;
  for (const double cost : costs) {
    const double end = free_at.top() + cost;
    free_at.pop();
    free_at.push(end);
    last = std::max(last, end);
  }
  return last;
}

// The longest share of a thread over the mean; 1 where there is no work.
inline double longest_share(const std::vector<double>& costs, int64_t threads) {
  const double work = std::accumulate(costs.begin(), costs.end(), 0.0);
  return work > 0 ? end_of(costs, threads) * static_cast<double>(threads) / work : 1;
}

}  // namespace rlhi::ops
