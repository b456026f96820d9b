// The bits of linear_logprob, and what it refuses. Values and gradients at every edge are op_table/head_cases.cc's.
#include "test/ops_support.h"
#include "test/packed.h"

namespace rlhi::test {
namespace {

using ops::LinearLogprobArgs;
using ops::Table;
constexpr DType F = DType::f32, B = DType::bf16;

struct Head {
  Head(int64_t rows, int64_t dim, int64_t vocab, DType type)
      : h(Matrix::random(rows, dim, type, 1)), w(Matrix::random(vocab, dim, type, 2, 0.5)), targets(static_cast<size_t>(rows)) {
    for (size_t i = 0; i < targets.size(); ++i) {
      targets[i] = static_cast<int32_t>((i * 7919 + 3) % static_cast<size_t>(vocab));
    }
    targets[0] = static_cast<int32_t>(vocab - 1);
  }
  Matrix h, w;
  std::vector<int32_t> targets;
};

struct Result {
  std::vector<float> logps, lse;
};

Result forward(const Table& ops, ops::Backend* backend, Head& head, bool packed, Matrix* keep) {
  Result r{std::vector<float>(head.targets.size()), std::vector<float>(head.targets.size())};
  LinearLogprobArgs a;
  a.h = head.h.tensor(), a.w = head.w.tensor(), a.targets = head.targets.data(), a.logps = r.logps.data(), a.lse = r.lse.data();
  if (keep) a.keep_logits = keep->tensor();
  std::optional<Packed> pack;
  if (packed) pack.emplace(ops, backend, head.w.tensor());
  if (pack && pack->is_packed()) a.packed_w = &pack->weight(), a.w = Tensor();
  ops.linear_logprob(backend, a);
  return r;
}

TEST("linear_logprob: the same bits whether logits are kept or not, the head packed or not") {
  for (const DType type : {F, B}) {
    for (const int64_t vocab : {1, 50, 2047, 2048, 2049, 4500}) {
      Head head(19, 17, vocab, type);
      on_every_backend([&](const Table& ops, ops::Backend* backend) {
        Matrix kept(19, vocab, F, on_cpu() ? 3 : 0);  // a GPU's algorithm may depend on how rows are aligned
        const Result r = forward(ops, backend, head, false, nullptr), with_logits = forward(ops, backend, head, false, &kept);
        const Result with_pack = forward(ops, backend, head, true, nullptr);
        EXPECT(r.logps == with_logits.logps && r.lse == with_logits.lse);
        EXPECT(r.logps == with_pack.logps && r.lse == with_pack.lse);
      });
    }
  }
}

std::vector<std::pair<BackendChoice, DType>> backends_and_types() {
  std::vector<std::pair<BackendChoice, DType>> all;
  for (const BackendChoice& choice : every_backend()) all.insert(all.end(), {{choice, F}, {choice, B}});
  return all;
}

TEST("linear_logprob: a row has the same bits alone and among others, on any number of threads") {
  for (const auto& [choice, type] : backends_and_types()) {
    Head all(100, 48, 3000, type);
    OpsBackend& one = backend_of(choice, 1);
    const Result expected = forward(one.table(), one.handle(), all, false, nullptr);
    for (const int threads : {1, 2, 3, 5}) {
      for (const int64_t rows : {1, 2, 7, 33}) {
        Head some(rows, 48, 3000, type);
        const size_t offset = 100 - static_cast<size_t>(rows);
        for (int64_t i = 0; i < rows; ++i) {
          some.targets[static_cast<size_t>(i)] = all.targets[offset + static_cast<size_t>(i)];
          for (int64_t d = 0; d < 48; ++d) some.h.set(i, d, all.h.at(static_cast<int64_t>(offset) + i, d));
        }
        OpsBackend& backend = backend_of(choice, threads);
        const Result r = forward(backend.table(), backend.handle(), some, rows % 2 == 1, nullptr);
        for (size_t i = 0; i < r.logps.size(); ++i) EXPECT_EQ(r.logps[i], expected.logps[offset + i]);
      }
    }
  }
}

TEST("linear_logprob: a target outside the vocabulary is refused") {
  OpsBackend& backend = backend_of();
  Head head(2, 4, 10, F);
  head.targets[1] = 10;
  EXPECT_ERROR(forward(backend.table(), backend.handle(), head, false, nullptr), ErrorCode::invalid_argument, "target 10");
}

}  // namespace
}  // namespace rlhi::test
