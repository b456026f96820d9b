// The sampler: which tokens the cuts leave, what is drawn from them, and the reported log-probability.
#include <algorithm>
#include <cmath>
#include <set>

#include "infer/generator.h"
#include "ops/cpu/sampler.h"
#include "test/check.h"
#include "test/tiny_models.h"

using namespace rlhi;
using namespace rlhi::test;
using ops::Candidate;
using ops::ChosenToken;
using ops::Sampler;

namespace {

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::set<int32_t> kept(const std::vector<float>& logits, const SamplingParams& params) {
  Sampler sampler;
  std::set<int32_t> ids;
  for (const Candidate& c : sampler.truncate(logits.data(), static_cast<int64_t>(logits.size()), choice_of(params, 0, 0))) ids.insert(c.id);
  return ids;
}

SamplingParams params_of(double temperature, double top_p = 1, int32_t top_k = 0, double min_p = 0) {
  SamplingParams p;
  p.temperature = temperature, p.top_p = top_p, p.top_k = top_k, p.min_p = min_p;
  return p;
}

// Pearson's statistic of 20,000 draws with seeds 0, 1, ... against `expected` probabilities.
double chi_square(const std::vector<float>& logits, const SamplingParams& params, const std::vector<double>& expected) {
  constexpr int kDraws = 20000;
  Sampler sampler;
  std::vector<int> counts(logits.size());
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    ++counts[static_cast<size_t>(sampler.choose(logits.data(), static_cast<int64_t>(logits.size()), choice_of(params, seed, seed % 7)).id)];
  }
  double statistic = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) EXPECT_EQ(counts[i], 0);
    else statistic += std::pow(counts[i] - kDraws * expected[i], 2) / (kDraws * expected[i]);
  }
  return statistic;
}

const std::vector<double> kSix = {0.05, 0.30, 0.10, 0.25, 0.20, 0.10};
constexpr double kChi5 = 20.5, kChi2 = 13.8;  // the 0.1 % points with 5 and 2 degrees of freedom

}  // namespace

TEST("sampler: greedy takes the highest logit, the lowest id among equals") {
  Sampler sampler;
  const std::vector<float> logits = {0.5f, 2.0f, -1.0f, 2.0f, 1.9f};
  EXPECT_EQ(sampler.choose(logits.data(), 5, choice_of(params_of(0), 1, 0)).id, 1);
  const float one = -3.5f;
  EXPECT_EQ(sampler.choose(&one, 1, choice_of(params_of(0), 1, 0)).id, 0);
  EXPECT_EQ(sampler.choose(&one, 1, choice_of(params_of(1), 1, 0)).logp, 0.0f);
}

TEST("sampler: the log-probability is the model's own, whatever temperature and cuts are") {
  Numbers numbers(3);
  for (const int64_t vocab : {1, 2, 7, 8, 9, 255, 256, 257, 1000, 49152}) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& x : logits) x = static_cast<float>(numbers.uniform(-12, 12));
    double highest = *std::max_element(logits.begin(), logits.end()), total = 0;
    for (const float x : logits) total += std::exp(static_cast<double>(x) - highest);
    Sampler sampler;
    for (const SamplingParams& p : {params_of(0), params_of(1), params_of(0.3), params_of(1.7, 0.9, 40, 0.01)}) {
      const ChosenToken token = sampler.choose(logits.data(), vocab, choice_of(p, 5, 2));
      EXPECT(token.id >= 0 && token.id < vocab);
      EXPECT_NEAR(static_cast<double>(token.logp), static_cast<double>(logits[static_cast<size_t>(token.id)]) - highest - std::log(total), 2e-6);
    }
  }
}

TEST("sampler: top-k keeps ties with the k-th") {
  const auto logits = logits_of(kSix);
  EXPECT(kept(logits, params_of(1, 1, 1)) == std::set<int32_t>({1}));
  EXPECT(kept(logits, params_of(1, 1, 3)) == std::set<int32_t>({1, 3, 4}));
  EXPECT(kept(logits, params_of(1, 1, 4)) == std::set<int32_t>({1, 2, 3, 4, 5}));  // 2 and 5 are equal
  EXPECT(kept(logits, params_of(1, 1, 99)).size() == 6);
}

TEST("sampler: top-p keeps the smallest set above p, the likeliest always") {
  const auto logits = logits_of(kSix);
  EXPECT(kept(logits, params_of(1, 0.01)) == std::set<int32_t>({1}));
  EXPECT(kept(logits, params_of(1, 0.5)) == std::set<int32_t>({1, 3}));
  EXPECT(kept(logits, params_of(1, 0.6)) == std::set<int32_t>({1, 3, 4}));
  EXPECT(kept(logits, params_of(1, 0.8)) == std::set<int32_t>({1, 2, 3, 4}));      // of the equals 2 and 5 the higher id goes first
  EXPECT(kept(logits, params_of(1, 0.999)).size() == 6);
}

TEST("sampler: top-p counts the mass that top-k left") {
  // After top-k 3 the masses are 0.4, 0.333, 0.267: the least is removed at p = 0.7 and stays at p = 0.75.
  EXPECT(kept(logits_of(kSix), params_of(1, 0.70, 3)) == std::set<int32_t>({1, 3}));
  EXPECT(kept(logits_of(kSix), params_of(1, 0.75, 3)) == std::set<int32_t>({1, 3, 4}));
}

TEST("sampler: min-p is a share of the likeliest, after temperature") {
  const auto logits = logits_of(kSix);
  EXPECT(kept(logits, params_of(1, 1, 0, 0.5)) == std::set<int32_t>({1, 3, 4}));
  EXPECT(kept(logits, params_of(1, 1, 0, 0.99)) == std::set<int32_t>({1}));
  // At temperature 2 the ratio of 0.1 to 0.3 is its square root, 0.577.
  EXPECT(kept(logits, params_of(2, 1, 0, 0.5)) == std::set<int32_t>({1, 2, 3, 4, 5}));
}

TEST("sampler: cuts of a large vocabulary equal a plain sort's") {
  Numbers numbers(11);
  std::vector<float> logits(5003);
  for (float& x : logits) x = static_cast<float>(numbers.uniform(-9, 3));
  for (const double p : {0.1, 0.5, 0.9, 0.97}) {
    std::vector<std::pair<double, int32_t>> ascending;
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) ascending.push_back({std::exp(static_cast<double>(logits[i])), static_cast<int32_t>(i)}), total += ascending.back().first;
    std::sort(ascending.begin(), ascending.end());
    std::set<int32_t> expected;
    double mass = 0;
    for (const auto& [weight, id] : ascending)
      if ((mass += weight) > (1 - p) * total) expected.insert(id);
    EXPECT(kept(logits, params_of(1, p)) == expected);
  }
}

TEST("sampler: draws follow the distribution, untruncated, tempered and cut") {
  const auto logits = logits_of(kSix);
  EXPECT(chi_square(logits, params_of(1), kSix) < kChi5);
  std::vector<double> tempered = kSix;
  double total = 0;
  for (double& p : tempered) total += (p = std::pow(p, 1 / 0.6));
  for (double& p : tempered) p /= total;
  EXPECT(chi_square(logits, params_of(0.6), tempered) < kChi5);
  EXPECT(chi_square(logits, params_of(1, 0.6), {0, 0.30 / 0.75, 0, 0.25 / 0.75, 0.20 / 0.75, 0}) < kChi2);
  EXPECT(chi_square(logits, params_of(1, 1, 3), {0, 0.30 / 0.75, 0, 0.25 / 0.75, 0.20 / 0.75, 0}) < kChi2);
  EXPECT(chi_square(logits, params_of(1, 1, 0, 0.5), {0, 0.30 / 0.75, 0, 0.25 / 0.75, 0.20 / 0.75, 0}) < kChi2);
  EXPECT(chi_square(logits, params_of(3), kSix) > 100);  // the statistic does tell another distribution
}

TEST("sampler: a token of no weight is never drawn, and tiny temperatures are greedy") {
  Sampler sampler;
  std::vector<float> logits(600, -INFINITY);
  logits[300] = 1, logits[599] = 1.5f;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const int32_t id = sampler.choose(logits.data(), 600, choice_of(params_of(1), seed, 0)).id;
    EXPECT(id == 300 || id == 599);
    EXPECT_EQ(sampler.choose(logits.data(), 600, choice_of(params_of(1e-6), seed, 0)).id, 599);
  }
}

TEST("sampler: the same seed and index give the same draw, others differ") {
  const std::vector<float> logits(1000, 0.0f);
  Sampler a, b;
  std::set<int32_t> by_index, by_seed;
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(a.choose(logits.data(), 1000, choice_of(params_of(1), 42, i)).id, b.choose(logits.data(), 1000, choice_of(params_of(1), 42, i)).id);
    by_index.insert(a.choose(logits.data(), 1000, choice_of(params_of(1), 42, i)).id);
    by_seed.insert(a.choose(logits.data(), 1000, choice_of(params_of(1), i, 0)).id);
  }
  EXPECT(by_index.size() > 40 && by_seed.size() > 40);
}

TEST("sampler: logits that are not numbers are an error") {
  Sampler sampler;
  const std::vector<float> nan = {0.0f, NAN, 1.0f}, infinite = {0.0f, INFINITY}, none = {-INFINITY, -INFINITY};
  EXPECT_ERROR(sampler.choose(nan.data(), 3, choice_of(params_of(0), 0, 0)), ErrorCode::internal, "NaN");
  EXPECT_ERROR(sampler.choose(infinite.data(), 2, choice_of(params_of(1), 0, 0)), ErrorCode::internal, "inf");
  EXPECT_ERROR(sampler.choose(none.data(), 2, choice_of(params_of(1), 0, 0)), ErrorCode::internal, "all -inf");
}
