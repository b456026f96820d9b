// Packed prefix trees: a prompt's tokens are there once, whatever the number of its continuations.
#include "model/transformer.h"

namespace rlhi {
namespace {

ops::KeySpan append_run(PackedTokens& packed, const int32_t* ids, int64_t length, int64_t position) {
  const ops::KeySpan run{static_cast<int32_t>(packed.size()), static_cast<int32_t>(length), static_cast<int32_t>(position)};
  packed.ids.insert(packed.ids.end(), ids, ids + length);
  for (int64_t i = 0; i < length; ++i) packed.positions.push_back(static_cast<int32_t>(position + i));
  return run;
}

void add_segment(PackedTokens& packed, const ops::KeySpan& own, const ops::KeySpan* ancestor) {
  const auto first_span = static_cast<int32_t>(packed.spans.size());
  if (ancestor) packed.spans.push_back(*ancestor);
  packed.spans.push_back(own);
  packed.segments.push_back({own.row, own.length, own.position, first_span, ancestor ? 2 : 1});
}

}  // namespace

std::vector<TreePacker::Continuation> TreePacker::add_tree(const std::vector<int32_t>& prompt,
                                                           const std::vector<std::vector<int32_t>>& continuations) {
  check(!prompt.empty(), ErrorCode::invalid_argument, "a prompt needs at least one token");
  for (size_t i = 0; i < continuations.size(); ++i)
    check(!continuations[i].empty(), ErrorCode::invalid_argument, "continuation ", i, " is empty; it needs at least one token");

  const auto prompt_length = static_cast<int64_t>(prompt.size());
  const ops::KeySpan prompt_run = append_run(packed_, prompt.data(), prompt_length, 0);
  add_segment(packed_, prompt_run, nullptr);

  std::vector<Continuation> out(continuations.size());
  for (size_t i = 0; i < continuations.size(); ++i) {
    auto& rows = out[i].predictor_rows;
    rows.push_back(prompt_run.row + prompt_run.length - 1);
    const auto computed = static_cast<int64_t>(continuations[i].size()) - 1;  // nothing follows the last token: it needs no row
    if (computed == 0) continue;
    const ops::KeySpan run = append_run(packed_, continuations[i].data(), computed, prompt_length);
    add_segment(packed_, run, &prompt_run);
    for (int32_t r = 0; r < run.length; ++r) rows.push_back(run.row + r);
  }
  return out;
}

PackedTokens TreePacker::take() {
  PackedTokens taken = std::move(packed_);
  packed_ = PackedTokens{};
  return taken;
}

}  // namespace rlhi
