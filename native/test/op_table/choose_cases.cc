// Choosing tokens, against a plain sort in double.
#include <algorithm>
#include <cmath>

#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::ChosenToken;
using ops::Table;
using ops::TokenChoice;

struct Reference {
  int32_t id;
  double logp;
  bool near;                    // the draw falls so close to the next token's that rounding decides
};
Reference choose_plainly(const std::vector<float>& logits, const TokenChoice& c) {
  const auto n = static_cast<int32_t>(logits.size());
  const double highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double total = 0;
  for (const float x : logits) total += std::exp(static_cast<double>(x) - highest);
  const auto result = [&](int32_t id, bool near) { return Reference{id, static_cast<double>(logits[static_cast<size_t>(id)]) - highest - std::log(total), near}; };
  if (c.temperature == 0) return result(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()), false);
  std::vector<int32_t> ids(logits.size());
  for (int32_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = i;
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logit(a) != logit(b) ? logit(a) > logit(b) : a < b; });
  const auto weight = [&](int32_t id) { return std::exp((static_cast<double>(logit(id)) - highest) / c.temperature); };
  if (c.top_k > 0 && c.top_k < n) {
    auto end = static_cast<size_t>(c.top_k);
    while (end < ids.size() && logit(ids[end]) == logit(ids[end - 1])) ++end;
    ids.resize(end);
  }
  if (c.top_p < 1) {
    double left = 0, removed = 0;
    for (const int32_t id : ids) left += weight(id);
    const double cut = (1 - c.top_p) * left;
    while (ids.size() > 1 && removed + weight(ids.back()) <= cut) removed += weight(ids.back()), ids.pop_back();
  }
  std::erase_if(ids, [&](int32_t id) { return weight(id) < c.min_p && static_cast<double>(logit(id)) < highest; });
  std::sort(ids.begin(), ids.end());
  double sum = 0;
  for (const int32_t id : ids) sum += weight(id);
  const double at = c.uniform * sum;
  double before = 0;
  int32_t last = ids.front();
  for (const int32_t id : ids) {
    if (weight(id) < 1e-13) continue;
    last = id;
    before += weight(id);
    if (before > at) break;
  }
  return result(last, std::abs(before - at) < 1e-6 * sum || std::abs(before - weight(last) - at) < 1e-6 * sum);
}

// Rows of logits of several kinds.
constexpr int32_t kClose = 4;  // so close together that rounding decides what a cut removes
Matrix make_logits(int64_t vocab, int64_t gap) {
  Matrix m(6, vocab, DType::f32, gap);
  const Matrix bell = Matrix::random(6, vocab, DType::f32, 5, 3.0);
  for (int64_t j = 0; j < vocab; ++j) {
    m.set(0, j, bell.at(0, j));
    m.set(1, j, std::round(bell.at(1, j)));                                // many ties
    m.set(2, j, 0.25);                                                     // one tie
    m.set(3, j, j % 3 == 1 && vocab > 1 ? -INFINITY : 12 * bell.at(3, j)); // far apart
    m.set(4, j, 1e-4 * bell.at(4, j) - 7);                                 // close together
    m.set(5, j, j == vocab / 2 ? 80 : j % 2 ? -0.0 : 0.0);                 // one that takes all
  }
  return m;
}

std::vector<TokenChoice> every_combination(double temperature) {
  std::vector<TokenChoice> choices;
  for (const int32_t top_k : {0, 1, 7, 40, 100000}) {
    for (const double top_p : {1.0, 0.9, 0.5, 1e-9}) {
      for (const double min_p : {0.0, 0.05, 0.999}) {
        for (int32_t row = 0; row < 6; ++row) {
          const double golden = static_cast<double>(choices.size()) * 0.6180339887498949;
          const double uniform = row == 1 && top_k == 7 ? 0 : row == 2 && top_k == 1 ? 1 - 0x1p-53 : golden - std::floor(golden);
          choices.push_back({row, top_k, temperature, top_p, min_p, uniform});
        }
      }
    }
  }
  std::vector<TokenChoice> some;             // on a device that is not the CPU: emulated kernels are slow
  for (size_t i = 0; i < choices.size(); i += on_cpu() ? 1 : 7) some.push_back(choices[i]);
  return some;
}

class ChooseCase : public OpCase {
 public:
  ChooseCase(int64_t vocab, int64_t gap, std::vector<TokenChoice> choices) : logits_(make_logits(vocab, gap)), choices_(std::move(choices)) {
    for (int64_t i = 0; i < 6; ++i) {
      rows_.emplace_back();
      for (int64_t j = 0; j < vocab; ++j) rows_.back().push_back(static_cast<float>(logits_.at(i, j)));
    }
  }
  void prepare(const Table&, Backend*) override { chosen_.assign(choices_.size(), {-1, 1}); }
  void call(const Table& ops, Backend* backend) override {
    ops.choose_tokens(backend, logits_.tensor(), choices_.data(), static_cast<int64_t>(choices_.size()), chosen_.data());
  }
  void check(const Table&, Backend*) override {
    if (expected_.empty())
      for (const TokenChoice& c : choices_) expected_.push_back(choose_plainly(rows_[static_cast<size_t>(c.row)], c));
    size_t other = 0;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const TokenChoice& c = choices_[i];
      const Reference& e = expected_[i];
      if (chosen_[i].id == e.id) {
        expect_close(static_cast<double>(chosen_[i].logp), e.logp, 2e-6 * (1 + std::abs(e.logp)), "logp", static_cast<int64_t>(i), 0);
        continue;
      }
      ++other;
      if (!e.near && !(c.row == kClose && c.top_p < 1))
        throw std::runtime_error(concat("row ", c.row, " temperature ", c.temperature, " top_k ", c.top_k, " top_p ", c.top_p, " min_p ", c.min_p, " uniform ",
                                        c.uniform, ": chose ", chosen_[i].id, ", expected ", e.id));
    }
    if (other * 50 > choices_.size()) throw std::runtime_error(concat(other, " of ", choices_.size(), " choices are others, more than rounding explains"));
  }

 private:
  Matrix logits_;
  std::vector<std::vector<float>> rows_;
  std::vector<TokenChoice> choices_;
  std::vector<ChosenToken> chosen_;
  std::vector<Reference> expected_;
};

}  // namespace

std::vector<OpCaseMaker> OpCases::choose_edges() {
  std::vector<OpCaseMaker> all;
  for (const auto& [vocab, gap] : {std::pair<int64_t, int64_t>{1, 3}, {2, 3}, {33, 3}, {300, 4}, {5000, 8}})
    for (const double temperature : {1.0, 0.3, 4.0, 1e-6, 0.0, 1e-44, 1e300}) all.push_back(op_case<ChooseCase>(concat(vocab, ", temperature ", temperature), vocab, gap, every_combination(temperature)));
  return all;
}
std::vector<OpCaseMaker> OpCases::choose_model() {
  std::vector<OpCaseMaker> all;
  const std::vector<std::pair<const char*, TokenChoice>> kinds = {
      {"greedy", {0, 0, 0}}, {"temperature", {0, 0, 0.7, 1, 0, 0.5}}, {"top-k and top-p", {0, 50, 0.7, 0.95, 0, 0.5}}, {"top-p", {0, 0, 0.7, 0.95, 0, 0.5}}};
  for (const auto& [name, choice] : kinds) all.push_back(op_case<ChooseCase>(concat("49152, ", name), 49152, 4, std::vector<TokenChoice>(16, choice)));
  return all;
}

}  // namespace rlhi::test
