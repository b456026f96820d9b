// Rows moved and added.
#include <numeric>

#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

using ops::Backend;
using ops::Table;
constexpr DType F = DType::f32;

// Vectors of 4, 8 and 16 floats; a unit of a contiguous range; and with rows of 32768 elements in all, where tasks are cut.
const std::vector<int64_t> kWidths = around({4, 8, 16, 64});
const std::vector<int64_t> kLongWidths = {1023, 1024, 1025};
const std::vector<int64_t> kRows = around({32});

struct Moved {
  int64_t rows, cols;
  DType to, from;
  int64_t gap;
};
std::string describe(const Moved& m) {
  return concat(m.rows, " x ", m.cols, " ", type_name(m.from), " to ", type_name(m.to), m.gap ? "" : ", contiguous");
}

template <class Case>
std::vector<OpCaseMaker> moved_cases(bool f32_only = false) {
  std::vector<int64_t> widths = kWidths;
  widths.insert(widths.end(), kLongWidths.begin(), kLongWidths.end());
  std::vector<OpCaseMaker> all;
  const auto size = [](const Combination& c) { return static_cast<double>(c[0] * c[1]); };
  const std::vector<int64_t> to_types = f32_only ? std::vector<int64_t>{0} : std::vector<int64_t>{0, 1};
  for (const Combination& c : pairwise({kRows, widths, to_types, {0, 1}, {3, 0}}, size, 70'000)) {
    const Moved m{c[0], c[1], kTypes[c[2]], kTypes[c[3]], c[4]};
    all.push_back(op_case<Case>(describe(m), m));
  }
  return all;
}
template <class Case>
std::vector<OpCaseMaker> moved_model(const Moved& f32, const Moved& bf16) {
  return {op_case<Case>(describe(f32), f32), op_case<Case>(describe(bf16), bf16)};
}

Matrix converted(const Matrix& m, DType type, int64_t gap) {
  Matrix to(m.rows(), m.cols(), type, gap);
  for (int64_t i = 0; i < m.rows(); ++i) {
    for (int64_t j = 0; j < m.cols(); ++j) to.set(i, j, m.at(i, j));
  }
  return to;
}

class CopyCase : public OpCase {
 public:
  explicit CopyCase(const Moved& m)
      : from_(Matrix::random(m.rows, m.cols, m.from, 1, 1.0, m.gap)), to_(m.rows, m.cols, m.to, m.gap),
        expected_(converted(from_, m.to, m.gap)) {}
  void call(const Table& ops, Backend* backend) override { ops.copy(backend, to_.tensor(), from_.tensor()); }
  void check(const Table&, Backend*) override { EXPECT(to_ == expected_); }

 private:
  Matrix from_, to_, expected_;
};

// Indices with repeats, first and last row among them.
std::vector<int32_t> some_rows(int64_t count, int64_t rows) {
  std::vector<int32_t> index(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) index[static_cast<size_t>(i)] = static_cast<int32_t>((i * 5 + rows - 1) % rows);
  return index;
}

template <auto kOperation>
class GatherCase : public OpCase {
 public:
  explicit GatherCase(const Moved& m)
      : from_(Matrix::random(m.rows + 3, m.cols, m.from, 1, 1.0, m.gap)), to_(m.rows, m.cols, m.to, m.gap),
        rows_(converted(from_, m.to, m.gap)), index_(some_rows(m.rows, m.rows + 3)) {}
  void call(const Table& ops, Backend* backend) override { (ops.*kOperation)(backend, to_.tensor(), from_.tensor(), index_.data()); }
  void check(const Table&, Backend*) override {
    for (int64_t i = 0; i < to_.rows(); ++i) EXPECT(to_.same_row(i, rows_, index_[static_cast<size_t>(i)]));
    to_.expect_gaps_untouched();
  }

 private:
  Matrix from_, to_, rows_;
  std::vector<int32_t> index_;
};

class ScatterCase : public OpCase {
 public:
  explicit ScatterCase(const Moved& m)
      : from_(Matrix::random(m.rows, m.cols, m.from, 1, 1.0, m.gap)), to_(Matrix::filled(2 * m.rows + 1, m.cols, m.to, 5.0)),
        untouched_(to_), rows_(converted(from_, m.to, m.gap)) {}
  void call(const Table& ops, Backend* backend) override {
    index_.clear();
    for (int64_t i = 0; i < from_.rows(); ++i)
      index_.push_back(static_cast<int32_t>(2 * (from_.rows() - 1 - i) + 1));  // every other row, last first
    ops.scatter_rows(backend, to_.tensor(), from_.tensor(), index_.data());
  }
  void check(const Table&, Backend*) override {
    for (int64_t i = 0; i < from_.rows(); ++i) EXPECT(to_.same_row(index_[static_cast<size_t>(i)], rows_, i));
    for (int64_t i = 0; i < to_.rows(); i += 2) EXPECT(to_.same_row(i, untouched_, i));
    to_.expect_gaps_untouched();
  }

 private:
  Matrix from_, to_, untouched_, rows_;
  std::vector<int32_t> index_;
};

class AddCase : public OpCase {
 public:
  explicit AddCase(const Moved& m)
      : from_(Matrix::random(m.rows, m.cols, m.from, 1, 1.0, m.gap)), before_(Matrix::random(m.rows, m.cols, m.to, 2, 1.0, m.gap)),
        to_(before_) {}
  void prepare(const Table&, Backend*) override { to_ = before_; }
  void call(const Table& ops, Backend* backend) override { ops.add(backend, to_.tensor(), from_.tensor()); }
  void check(const Table&, Backend*) override {
    for (int64_t i = 0; i < to_.rows(); ++i) {
      for (int64_t j = 0; j < to_.cols(); ++j) {
        const double sum = before_.at(i, j) + from_.at(i, j);
        expect_close(to_.at(i, j), sum, rounding(to_.dtype()) * std::abs(sum), "sum", i, j);
      }
    }
    to_.expect_gaps_untouched();
  }

 private:
  Matrix from_, before_, to_;
};

class ScatterAddCase : public OpCase {
 public:
  explicit ScatterAddCase(const Moved& m)
      : from_(Matrix::random(m.rows, m.cols, m.from, 1, 1.0, m.gap)), before_(Matrix::random(m.rows / 3 + 2, m.cols, m.to, 2)),
        to_(before_), index_(some_rows(m.rows, m.rows / 3 + 1)) {}
  void prepare(const Table&, Backend*) override { to_ = before_; }
  void call(const Table& ops, Backend* backend) override {
    ops.scatter_add_rows(backend, to_.tensor(), from_.tensor(), index_.data());
  }
  void check(const Table&, Backend*) override {
    Array sums(before_), sizes(to_.rows(), to_.cols(), 1.0);
    for (int64_t i = 0; i < from_.rows(); ++i) {
      for (int64_t j = 0; j < from_.cols(); ++j)
        sums.at(index_[static_cast<size_t>(i)], j) += from_.at(i, j),
            sizes.at(index_[static_cast<size_t>(i)], j) += std::abs(from_.at(i, j));
    }
    expect_values("sum", to_, sums, [&](int64_t i, int64_t j) { return 1e-6 * sizes.at(i, j) + rounding(to_.dtype()) * std::abs(sums.at(i, j)); });
  }

 private:
  Matrix from_, before_, to_;
  std::vector<int32_t> index_;
};

class ColumnSumCase : public OpCase {
 public:
  explicit ColumnSumCase(const Moved& m)
      : from_(Matrix::random(m.rows, m.cols, m.from, 1, 1.0, m.gap)), before_(Matrix::random(1, m.cols, F, 2)), to_(before_) {}
  void prepare(const Table&, Backend*) override { to_ = before_; }
  void call(const Table& ops, Backend* backend) override { ops.column_sum(backend, to_.tensor(), from_.tensor()); }
  void check(const Table&, Backend*) override {
    for (int64_t j = 0; j < to_.cols(); ++j) {
      double sum = before_.at(0, j), size = std::abs(sum);
      for (int64_t i = 0; i < from_.rows(); ++i) sum += from_.at(i, j), size += std::abs(from_.at(i, j));
      expect_close(to_.at(0, j), sum, 1e-6 * (1 + size), "sum", 0, j);
    }
    to_.expect_gaps_untouched();
  }

 private:
  Matrix from_, before_, to_;
};

// Contiguous ranges are cut at about 65536 elements.
template <class Case>
void add_long_ranges(std::vector<OpCaseMaker>& all) {
  for (const int64_t n : around({65536})) {
    for (const DType to : kTypes) {
      const Moved m{1, n, to, F, 0};
      all.push_back(op_case<Case>(describe(m), m));
    }
  }
}

constexpr int64_t kTokens = 1024, kHidden = 576, kVocab = 49152;
constexpr DType B = DType::bf16;
const Moved kModelF32{kTokens, kHidden, F, F, 0}, kModelBf16{kTokens, kHidden, B, F, 0};

}  // namespace

std::vector<OpCaseMaker> OpCases::copy_edges() {
  std::vector<OpCaseMaker> all = moved_cases<CopyCase>();
  add_long_ranges<CopyCase>(all);
  return all;
}
std::vector<OpCaseMaker> OpCases::add_edges() {
  std::vector<OpCaseMaker> all = moved_cases<AddCase>();
  add_long_ranges<AddCase>(all);
  return all;
}
std::vector<OpCaseMaker> OpCases::gather_edges() { return moved_cases<GatherCase<&Table::gather_rows>>(); }
std::vector<OpCaseMaker> OpCases::embedding_edges() { return moved_cases<GatherCase<&Table::embedding>>(); }
std::vector<OpCaseMaker> OpCases::scatter_edges() { return moved_cases<ScatterCase>(); }

std::vector<OpCaseMaker> OpCases::scatter_add_edges() {
  std::vector<OpCaseMaker> all = moved_cases<ScatterAddCase>();
  for (const int64_t cols : around({128})) {          // tasks of at least 128 columns
    for (const DType to : kTypes) {
      const Moved m{300, cols, to, B, 3};
      all.push_back(op_case<ScatterAddCase>(describe(m), m));
    }
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::column_sum_edges() {
  std::vector<OpCaseMaker> all = moved_cases<ColumnSumCase>(true);
  for (const int64_t rows : around({64})) {           // rows of a partial sum
    for (const int64_t cols : {63, 64, 65, 700}) {
      const Moved m{rows, cols, F, B, 3};
      all.push_back(op_case<ColumnSumCase>(describe(m), m));
    }
  }
  return all;
}

std::vector<OpCaseMaker> OpCases::copy_model() { return moved_model<CopyCase>(kModelF32, kModelBf16); }
std::vector<OpCaseMaker> OpCases::add_model() { return moved_model<AddCase>(kModelF32, {kTokens, kHidden, F, B, 0}); }
std::vector<OpCaseMaker> OpCases::gather_model() {
  return moved_model<GatherCase<&Table::gather_rows>>(kModelF32, {kTokens, kHidden, B, B, 0});
}
std::vector<OpCaseMaker> OpCases::embedding_model() {
  return moved_model<GatherCase<&Table::embedding>>(kModelF32, {kTokens, kHidden, F, B, 0});
}
std::vector<OpCaseMaker> OpCases::scatter_model() { return moved_model<ScatterCase>(kModelF32, {kTokens, kHidden, B, B, 0}); }
std::vector<OpCaseMaker> OpCases::scatter_add_model() { return moved_model<ScatterAddCase>(kModelF32, {kTokens, kHidden, F, B, 0}); }
std::vector<OpCaseMaker> OpCases::column_sum_model() { return moved_model<ColumnSumCase>(kModelF32, {kTokens, kHidden, F, B, 0}); }

// The gradient of embedding: rows of the table that are looked up.
void OpCases::scatter_add_gradient() {
  const std::vector<int32_t> ids{2, 0, 2, 3, 1, 2};
  Matrix table = Matrix::random(5, 7, F, 1), dout = Matrix::random(6, 7, F, 2);
  Array t(table);
  const Array d = slopes(t, [&] {
    double loss = 0;
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t j = 0; j < 7; ++j) loss += t.at(ids[static_cast<size_t>(i)], j) * dout.at(i, j);
    }
    return loss;
  });
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found = Matrix::filled(5, 7, F, 0.0);
    ops.scatter_add_rows(backend, found.tensor(), dout.tensor(), ids.data());
    expect_gradient("dtable", found, d, 1e-6);
  });
}

// The gradient of a bias, which is added to every row.
void OpCases::column_sum_gradient() {
  Matrix bias = Matrix::random(1, 9, F, 1), dout = Matrix::random(70, 9, F, 2);
  Array b(bias);
  const Array d = slopes(b, [&] {
    double loss = 0;
    for (int64_t i = 0; i < 70; ++i) {
      for (int64_t j = 0; j < 9; ++j) loss += b.at(0, j) * dout.at(i, j);
    }
    return loss;
  });
  on_every_backend([&](const Table& ops, Backend* backend) {
    Matrix found = Matrix::filled(1, 9, F, 0.0);
    ops.column_sum(backend, found.tensor(), dout.tensor());
    expect_gradient("dbias", found, d, 1e-6);
  });
}

}  // namespace rlhi::test
