// The losses of pairs from their tokens' log-probabilities. Values of the objectives are loss_test.cc's; here: which rows are a pair's, in
// which order they are added, and what becomes of sums that are not finite.
#include <cmath>
#include <limits>

#include "ops/pair_loss.h"
#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;

struct LossShape {
  std::vector<std::pair<int, int>> lengths;  // chosen, rejected
  LossType type = LossType::sigmoid;
  bool gradient = true;
  float spoilt = 0;                          // not 0: the first pair's last log-probability
};

const char* name_of(LossType type) {
  for (const char* name : {"sigmoid", "ipo", "hinge", "simpo", "sft"})
    if (loss_type_from_name(name) == type) return name;
  return "?";
}

class LossCase : public OpCase {
 public:
  explicit LossCase(const LossShape& s) : s_(s) {
    int64_t row = kGap;
    for (const auto& [chosen, rejected] : s.lengths) {
      // The second pair's references are of a float32's value.
      const double reference = pairs_.size() % 2 == 1 ? -1.5 : -1.3;
      pairs_.push_back({row, chosen, rejected, reference * chosen, reference * rejected});
      row += chosen + rejected + kGap;
    }
    logps_.resize(static_cast<size_t>(row));
    for (size_t i = 0; i < logps_.size(); ++i) logps_[i] = -1.0f - std::abs(std::sin(static_cast<float>(i) + 0.5f));
    if (s.spoilt != 0) logps_[static_cast<size_t>(pairs_[0].first + pairs_[0].chosen + pairs_[0].rejected - 1)] = s.spoilt;
  }
  void prepare(const Table&, Backend*) override {
    dlogps_.assign(logps_.size(), kUntouched);
    sums_.assign(pairs_.size(), {});
  }
  void call(const Table& ops, Backend* backend) override {
    ops::PreferenceLossArgs a;
    a.loss.type = s_.type, a.weight = kWeight;
    a.pairs = pairs_.data(), a.n = static_cast<int64_t>(pairs_.size());
    a.logps = logps_.data(), a.sums = sums_.data();
    if (s_.gradient) a.dlogps = dlogps_.data();
    ops.preference_loss(backend, a);
  }
  void check(const Table&, Backend*) override {
    LossOptions options;
    options.type = s_.type;
    std::vector<double> expected(logps_.size(), static_cast<double>(kUntouched));
    for (size_t p = 0; p < pairs_.size(); ++p) {
      const ops::PairRows& rows = pairs_[p];
      ops::PairSums sums;
      for (int64_t i = rows.first; i < rows.first + rows.chosen; ++i) sums.chosen += static_cast<double>(logps_[static_cast<size_t>(i)]);
      for (int64_t i = rows.first + rows.chosen; i < rows.first + rows.chosen + rows.rejected; ++i)
        sums.rejected += static_cast<double>(logps_[static_cast<size_t>(i)]);
      if (std::isfinite(sums.rejected)) EXPECT(sums_[p].chosen == sums.chosen && sums_[p].rejected == sums.rejected);
      else EXPECT(!std::isfinite(sums_[p].rejected));
      if (!s_.gradient) continue;
      const PairLoss loss = preference_loss(ops::logps_of(rows, sums), options);
      const double nothing = std::numeric_limits<double>::quiet_NaN();
      for (int i = 0; i < rows.chosen + rows.rejected; ++i)
        expected[static_cast<size_t>(rows.first + i)] = std::isfinite(loss.loss) ? kWeight * (i < rows.chosen ? loss.d_chosen : loss.d_rejected) : nothing;
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      if (std::isnan(expected[i])) EXPECT(std::isnan(dlogps_[i]));
      else expect_close(static_cast<double>(dlogps_[i]), expected[i], 2e-7 * std::abs(expected[i]), "dlogps", static_cast<int64_t>(i));
    }
  }

 private:
  static constexpr int kGap = 3;             // rows that are no pair's
  static constexpr float kUntouched = 7;
  static constexpr double kWeight = 0.25;
  LossShape s_;
  std::vector<ops::PairRows> pairs_;
  std::vector<float> logps_, dlogps_;
  std::vector<ops::PairSums> sums_;
};

}  // namespace

std::vector<OpCaseMaker> OpCases::loss_edges() {
  std::vector<OpCaseMaker> all;
  const auto add = [&](const std::string& what, const LossShape& s) { all.push_back(op_case<LossCase>(what, s)); };
  for (const LossType type : {LossType::sigmoid, LossType::ipo, LossType::hinge, LossType::simpo, LossType::sft}) {
    add(concat("two pairs, ", name_of(type)), {{{5, 70}, {33, 2}}, type});
  }
  for (const int n : {1, 31, 32, 33, 64, 65}) add(concat("answers of ", n, " and ", 2 * n + 1), {{{n, 2 * n + 1}}});
  add("no gradient", {{{4, 9}, {9, 4}}, LossType::sigmoid, false});
  add("no pairs", {{}});
  for (const float spoilt : {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    add(concat("a log-probability of ", spoilt), {{{3, 40}, {2, 2}}, LossType::sigmoid, true, spoilt});
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::loss_model() {
  return {op_case<LossCase>("8 pairs of 256 + 256 tokens", LossShape{std::vector<std::pair<int, int>>(8, {256, 256})})};
}

void OpCases::loss_gradient() {
  Array logps(1, 12);
  for (int64_t i = 0; i < 12; ++i) logps.at(0, i) = -0.5 - 0.1 * static_cast<double>(i % 5);
  const ops::PairRows rows{2, 4, 5, -3.1, -4.2};
  const auto loss = [&] {
    ops::PairSums sums;
    for (int64_t i = 2; i < 6; ++i) sums.chosen += logps.at(0, i);
    for (int64_t i = 6; i < 11; ++i) sums.rejected += logps.at(0, i);
    return 0.5 * ops::pair_loss(rows, sums, {}).loss;
  };
  const Array expected = slopes(logps, loss);
  std::vector<float> given(12);
  for (size_t i = 0; i < given.size(); ++i) given[i] = static_cast<float>(logps.at(0, static_cast<int64_t>(i)));
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found = Matrix::filled(1, 12, DType::f32, 0.0);  // rows that are no pair's stay as they are
    ops::PairSums sums;
    ops::PreferenceLossArgs a;
    a.pairs = &rows, a.n = 1, a.logps = given.data(), a.sums = &sums, a.weight = 0.5;
    a.dlogps = static_cast<float*>(found.tensor().data);
    ops.preference_loss(backend, a);
    expect_gradient("dlogps", found, expected, 2e-6);
  });
}

}  // namespace rlhi::test
