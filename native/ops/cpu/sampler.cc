#include "ops/cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/cpu/backend.h"
#include "ops/sampling_weight.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kBlock = 256;   // weights are summed by blocks, so that a draw finds its token in V/256 + 256 steps
constexpr int kLanes = 16;        // independent sums that a compiler can keep in vector registers

// Loops over the vocabulary are compiled for several widths of vectors, and the loader takes this processor's. What an element becomes,
// and which of kLanes sums it goes to, is the same in all of them.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define RLHI_WIDEST_VECTORS __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define RLHI_WIDEST_VECTORS
#endif

// Sum of exp((logit - highest) * inverse_temperature) over a range, in double; written to `weights` where that is not null.
RLHI_WIDEST_VECTORS double sum_weights(const float* logits, int64_t n, float highest, float inverse_temperature, float* weights) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    float w[kLanes];
    for (int j = 0; j < kLanes; ++j) w[j] = exp_nonpositive((logits[i + j] - highest) * inverse_temperature);
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(w[j]);
    if (weights) std::memcpy(weights + i, w, sizeof w);
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (; i < n; ++i) {
    const float w = exp_nonpositive((logits[i] - highest) * inverse_temperature);
    sum += static_cast<double>(w);
    if (weights) weights[i] = w;
  }
  return sum;
}

struct Highest {
  float logit;
  int32_t id;
};

RLHI_WIDEST_VECTORS Highest find_highest(const float* logits, int64_t vocab, int64_t row) {
  float best[kLanes];
  bool has_nan[kLanes] = {};
  std::fill(best, best + kLanes, -INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= vocab; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float x = logits[i + j];
      best[j] = x > best[j] ? x : best[j];
      has_nan[j] |= x != x;
    }
  }
  float highest = -INFINITY;
  bool nan = false;
  for (int j = 0; j < kLanes; ++j) highest = std::max(highest, best[j]), nan |= has_nan[j];
  for (; i < vocab; ++i) highest = std::max(highest, logits[i]), nan |= logits[i] != logits[i];
  if (nan || !std::isfinite(highest)) fail_logits(row, nan ? NAN : highest);
  return {highest, static_cast<int32_t>(std::find(logits, logits + vocab, highest) - logits)};
}

}  // namespace

ChosenToken Sampler::choose(const float* logits, int64_t vocab, const TokenChoice& choice) {
  const Highest highest = find_highest(logits, vocab, choice.row);
  int32_t id = highest.id;
  if (choice.temperature > 0) {
    const bool all = (choice.top_k == 0 || choice.top_k >= vocab) && choice.top_p >= 1 && choice.min_p <= 0;
    if (all) {
      id = draw_from_all(logits, vocab, highest.logit, choice.temperature, choice.uniform);
    } else {
      cut(logits, vocab, choice, highest.logit);
      id = draw_from_candidates(choice.uniform);
    }
  }
  const double total = sum_weights(logits, vocab, highest.logit, 1.0f, nullptr);
  return {id, static_cast<float>(static_cast<double>(logits[id]) - static_cast<double>(highest.logit) - std::log(total))};
}

int32_t Sampler::draw_from_all(const float* logits, int64_t vocab, float highest, double temperature, double uniform) {
  weights_.resize(static_cast<size_t>(vocab));
  block_sums_.clear();
  const float inverse = inverse_temperature(temperature);
  double total = 0;
  for (int64_t begin = 0; begin < vocab; begin += kBlock) {
    const int64_t n = std::min(kBlock, vocab - begin);
    block_sums_.push_back(sum_weights(logits + begin, n, highest, inverse, weights_.data() + begin));
    total += block_sums_.back();
  }
  double left = uniform * total;
  size_t block = 0;
  while (block + 1 < block_sums_.size() && left >= block_sums_[block]) left -= block_sums_[block++];
  // Rounding can carry the walk past the end; the last token that can be drawn is then meant. A block of weight zero is
  // only reached so.
  int32_t last = -1;
  for (auto b = static_cast<int64_t>(block); last < 0 && b >= 0; --b) {
    const int64_t begin = b * kBlock, end = std::min(vocab, begin + kBlock);
    for (int64_t i = begin; i < end; ++i) {
      const double w = static_cast<double>(weights_[static_cast<size_t>(i)]);
      if (w <= 0) continue;
      last = static_cast<int32_t>(i);
      if (left < w) break;
      left -= w;
    }
  }
  return last;
}

int32_t Sampler::draw_from_candidates(double uniform) const {
  double total = 0;
  for (const Candidate& c : candidates_) total += static_cast<double>(c.weight);
  double left = uniform * total;
  int32_t last = candidates_.front().id;
  for (const Candidate& c : candidates_) {
    if (c.weight <= 0) continue;
    last = c.id;
    if (left < static_cast<double>(c.weight)) break;
    left -= static_cast<double>(c.weight);
  }
  return last;
}

const std::vector<Candidate>& Sampler::truncate(const float* logits, int64_t vocab, const TokenChoice& choice) {
  cut(logits, vocab, choice, find_highest(logits, vocab, choice.row).logit);
  return candidates_;
}

void Sampler::cut(const float* logits, int64_t vocab, const TokenChoice& choice, float highest) {
  weights_.resize(static_cast<size_t>(vocab));
  sum_weights(logits, vocab, highest, inverse_temperature(choice.temperature), weights_.data());

  float least_logit = -INFINITY;
  if (choice.top_k > 0 && choice.top_k < vocab) {
    sorted_.assign(logits, logits + vocab);
    std::nth_element(sorted_.begin(), sorted_.begin() + (choice.top_k - 1), sorted_.end(), std::greater<float>());
    least_logit = sorted_[static_cast<size_t>(choice.top_k - 1)];
  }
  double total = 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] < least_logit) continue;
    total += static_cast<double>(weights_[static_cast<size_t>(i)]);
    ++kept;
  }

  // Tokens so light that all of them together could not exceed 1 - p need no sorting.
  const double cut = choice.top_p < 1 ? (1 - choice.top_p) * total : -1;
  const double light = cut / static_cast<double>(kept);
  double removed = 0;
  candidates_.clear();
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] < least_logit) continue;
    const float w = weights_[static_cast<size_t>(i)];
    if (cut >= 0 && static_cast<double>(w) < light && logits[i] < highest) {
      removed += static_cast<double>(w);
    } else {
      candidates_.push_back({static_cast<int32_t>(i), logits[i], w});
    }
  }
  if (cut >= 0) {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
    });
    size_t first = 0;
    while (first + 1 < candidates_.size() && removed + static_cast<double>(candidates_[first].weight) <= cut)
      removed += static_cast<double>(candidates_[first++].weight);
    candidates_.erase(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(first));
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  }
  const float least_weight = static_cast<float>(choice.min_p);  // the likeliest token's weight is 1
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < least_weight && c.logit < highest; });
}

void choose_tokens(Backend* backend, Tensor logits, const TokenChoice* choices, int64_t n, ChosenToken* chosen) {
  check_choose_tokens(logits, choices, n);
  backend->samplers.resize(static_cast<size_t>(backend->pool.threads()));
  backend->pool.parallel_for(n, [&](int64_t i, int thread) {
    chosen[i] = backend->samplers[static_cast<size_t>(thread)].choose(reinterpret_cast<const float*>(row_pointer(logits, choices[i].row)), logits.cols, choices[i]);
  });
}

}  // namespace rlhi::ops
