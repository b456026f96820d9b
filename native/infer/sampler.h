// From one row of logits to one token: temperature, then top-k, top-p, min-p (the order in which transformers applies its
// warpers), then a draw that depends on the sample's seed and the token's index alone.
#pragma once
#include <cstdint>
#include <vector>

#include "infer/generator.h"

namespace rlhi {

struct ChosenToken {
  int32_t id = 0;
  float logp = 0;              // under softmax(logits): temperature 1, nothing cut off
};

struct Candidate {
  int32_t id = 0;
  float logit = 0;
  float weight = 0;            // exp((logit - highest logit) / temperature), not normalised
};

// Not thread-safe: it keeps scratch of the vocabulary's size.
class Sampler {
 public:
  // logits [vocab]. Temperature 0 takes the highest logit, the lowest id among equals. `index` counts the sample's tokens
  // from 0. Throws internal where no logit is finite or one is NaN.
  ChosenToken choose(const float* logits, int64_t vocab, const SamplingParams& params, uint64_t seed, uint64_t index);

  // The tokens that top-k, top-p and min-p leave, for temperature > 0. As in transformers: ties with the k-th logit stay;
  // top-p removes the least likely tokens whose summed probability (of what top-k left) is at most 1 - p, the higher id
  // first among equals; min-p removes what is less likely than min_p times the likeliest; the likeliest always stays.
  const std::vector<Candidate>& truncate(const float* logits, int64_t vocab, const SamplingParams& params);

 private:
  int32_t draw_from_all(const float* logits, int64_t vocab, float highest, double temperature, double uniform);
  int32_t draw_from_candidates(double uniform) const;

  std::vector<float> weights_;
  std::vector<double> block_sums_;
  std::vector<float> sorted_;
  std::vector<Candidate> candidates_;
};

}  // namespace rlhi
