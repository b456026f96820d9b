// Choosing a token on the CPU (ops.h, "choosing tokens").
#pragma once
#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace rlhi::ops {

struct Candidate {
  int32_t id = 0;
  float logit = 0;
  float weight = 0;            // exp((logit - highest logit) / temperature), not normalised
};

// Not thread-safe: it keeps scratch of the vocabulary's size.
class Sampler {
 public:
  // logits [vocab]; choice.row is what an error names.
  ChosenToken choose(const float* logits, int64_t vocab, const TokenChoice& choice);

  // The tokens that top-k, top-p and min-p leave, by id, for temperature > 0.
  const std::vector<Candidate>& truncate(const float* logits, int64_t vocab, const TokenChoice& choice);

 private:
  void cut(const float* logits, int64_t vocab, const TokenChoice& choice, float highest);
  int32_t draw_from_all(const float* logits, int64_t vocab, float highest, double temperature, double uniform);
  int32_t draw_from_candidates(double uniform) const;

  std::vector<float> weights_;
  std::vector<double> block_sums_;
  std::vector<float> sorted_;
  std::vector<Candidate> candidates_;
};

}  // namespace rlhi::ops
