#include "columns.h"

#include <cmath>

#include "fields.h"

namespace rlhi::bindings {
namespace {

constexpr int64_t kMaxRows = (int64_t{1} << 31) - 2;

std::vector<int32_t> read_list(const std::vector<int32_t>& offsets, const std::vector<int32_t>& values, const std::string& name, size_t row,
                               const TokenLimits& limits) {
  const int32_t begin = offsets[row], end = offsets[row + 1];
  check(begin >= 0 && end >= begin, ErrorCode::invalid_argument, name, ", row ", row, ": expected ascending offsets from 0 on, found ", begin, " to ", end);
  check(static_cast<size_t>(end) <= values.size(), ErrorCode::invalid_argument, name, ", row ", row, ": expected at least ", end, " values, found ",
        values.size(), values.empty() ? " (is the buffer detached?)" : "");
  check(end > begin, ErrorCode::invalid_argument, name, ", row ", row, ": expected at least one token, found none");
  std::vector<int32_t> list(values.begin() + begin, values.begin() + end);
  for (const int32_t id : list) {
    check(id >= 0 && id < limits.vocab_size, ErrorCode::invalid_argument, name, ", row ", row, ": expected token ids in [0, ", limits.vocab_size,
          "), found ", id);
  }
  return list;
}

void check_context(const std::string& name, size_t row, size_t prompt, size_t answer, const TokenLimits& limits) {
  const auto tokens = static_cast<int64_t>(prompt + answer);
  check(tokens <= limits.max_position, ErrorCode::invalid_argument, name, ", row ", row, ": expected a prompt and answer of at most ", limits.max_position,
        " tokens (the model's context), found ", tokens);
}

std::vector<float> read_references(const Fields& batch, const char* name, int64_t rows, bool required) {
  const Napi::Value value = batch.get(name);
  const auto n = static_cast<size_t>(rows);
  if (value.IsUndefined() && !required) return std::vector<float>(n, 0.0f);
  std::vector<float> references = copy_elements<float>(value, name);
  check(references.size() >= n, ErrorCode::invalid_argument, name, ": expected at least ", n, " values, found ", references.size(),
        references.empty() ? " (is the buffer detached?)" : "");
  for (size_t row = 0; row < n; ++row)
    check(std::isfinite(references[row]), ErrorCode::invalid_argument, name, ", row ", row, ": expected a finite number, found ", references[row]);
  return references;
}

}  // namespace

std::vector<std::vector<int32_t>> read_lists(Napi::Value column, const std::string& name, int64_t rows, const TokenLimits& limits) {
  const Fields fields(column, name);
  const std::vector<int32_t> offsets = copy_elements<int32_t>(fields.get("offsets"), fields.path("offsets"));
  const std::vector<int32_t> values = copy_elements<int32_t>(fields.get("values"), fields.path("values"));
  const auto n = static_cast<size_t>(rows);
  check(n == 0 || offsets.size() > n, ErrorCode::invalid_argument, name, ".offsets: expected at least ", n + 1, " elements for ", n, " rows, found ",
        offsets.size(), offsets.empty() ? " (is the buffer detached?)" : "");
  std::vector<std::vector<int32_t>> lists;
  lists.reserve(n);
  for (size_t row = 0; row < n; ++row) lists.push_back(read_list(offsets, values, name, row, limits));
  return lists;
}

std::vector<Pair> read_pairs(Napi::Value value, const TokenLimits& limits, bool needs_references) {
  const Fields batch(value, "batch");
  const int64_t rows = batch.integer("rows", 1, kMaxRows);
  auto prompts = read_lists(batch.get("prompt"), "prompt", rows, limits);
  auto chosen = read_lists(batch.get("chosen"), "chosen", rows, limits);
  auto rejected = read_lists(batch.get("rejected"), "rejected", rows, limits);
  const std::vector<float> ref_chosen = read_references(batch, "refChosen", rows, needs_references);
  const std::vector<float> ref_rejected = read_references(batch, "refRejected", rows, needs_references);
  std::vector<Pair> pairs(static_cast<size_t>(rows));
  for (size_t row = 0; row < pairs.size(); ++row) {
    check_context("chosen", row, prompts[row].size(), chosen[row].size(), limits);
    check_context("rejected", row, prompts[row].size(), rejected[row].size(), limits);
    pairs[row] = {std::move(prompts[row]), std::move(chosen[row]), std::move(rejected[row]), ref_chosen[row], ref_rejected[row]};
  }
  return pairs;
}

std::vector<ScoreTree> read_score_batch(Napi::Value value, const TokenLimits& limits) {
  const Fields batch(value, "batch");
  const int64_t rows = batch.integer("rows", 0, kMaxRows);
  auto prompts = read_lists(batch.get("prompt"), "prompt", rows, limits);
  const std::vector<int32_t> parents = copy_elements<int32_t>(batch.get("parents"), batch.path("parents"));
  auto continuations = read_lists(batch.get("continuations"), "continuations", static_cast<int64_t>(parents.size()), limits);
  std::vector<ScoreTree> trees;
  for (size_t j = 0; j < parents.size(); ++j) {
    const int32_t parent = parents[j], previous = j == 0 ? 0 : parents[j - 1];
    check(parent >= previous && parent < rows, ErrorCode::invalid_argument, "parents, row ", j, ": expected ascending prompt indices from ", previous,
          " to ", rows - 1, ", found ", parent);
    if (j == 0 || parent != previous) trees.push_back({std::move(prompts[static_cast<size_t>(parent)]), {}});
    check_context("continuations", j, trees.back().prompt.size(), continuations[j].size(), limits);
    trees.back().continuations.push_back(std::move(continuations[j]));
  }
  return trees;
}

}  // namespace rlhi::bindings
