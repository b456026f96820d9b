// choose_tokens: one choice on every backend, and what is refused. Its values are tested in op_table/choose_cases.cc.
#include <cmath>

#include "test/ops_support.h"

namespace rlhi::test {
namespace {

using ops::ChosenToken;
using ops::Table;
using ops::TokenChoice;

TEST("choose_tokens: every backend chooses the same") {
  Matrix logits = Matrix::random(3, 2000, DType::f32, 9, 2.5);
  std::vector<TokenChoice> choices;
  for (int32_t i = 0; i < 600; ++i) {
    const double golden = i * 0.6180339887498949;
    choices.push_back({i % 3, i % 2 ? 50 : 0, 0.5 + 0.01 * (i % 90), i % 5 ? 0.9 : 1, i % 7 ? 0 : 0.02, golden - std::floor(golden)});
  }
  std::vector<int32_t> first;
  on_every_backend([&](const Table& ops, ops::Backend* backend) {
    std::vector<ChosenToken> chosen(choices.size());
    ops.choose_tokens(backend, logits.tensor(), choices.data(), static_cast<int64_t>(choices.size()), chosen.data());
    std::vector<int32_t> ids;
    for (const ChosenToken& c : chosen) ids.push_back(c.id);
    if (first.empty()) first = ids;
    EXPECT(ids == first);
  });
}

TEST("choose_tokens: logits that are not finite are an error that names the row, and no choices are none") {
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)}) {
    Matrix logits = Matrix::random(3, 40, DType::f32, 1);
    for (int64_t j = 0; j < 40; ++j)
      if (bad < 0 || j == 17) logits.set(2, j, bad);
    on_every_backend([&](const Table& ops, ops::Backend* backend) {
      std::vector<ChosenToken> chosen(3);
      const std::vector<TokenChoice> choices = {{0}, {2}, {1}};
      EXPECT_ERROR(ops.choose_tokens(backend, logits.tensor(), choices.data(), 3, chosen.data()), ErrorCode::internal, "in row 2");
      ops.choose_tokens(backend, logits.tensor(), choices.data(), 1, chosen.data());
      ops.choose_tokens(backend, logits.tensor(), nullptr, 0, nullptr);
      const TokenChoice outside{3};
      EXPECT_ERROR(ops.choose_tokens(backend, logits.tensor(), &outside, 1, chosen.data()), ErrorCode::invalid_argument, "row 3, expected one of 3 rows");
    });
  }
}

}  // namespace
}  // namespace rlhi::test
