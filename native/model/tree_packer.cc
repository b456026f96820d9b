// Packed prefix trees: a prompt's tokens are there once, whatever the number of its continuations.
#include "model/transformer.h"

namespace rlhi {
namespace {

using ops::KeySpan;
using ops::kKeyBlock;

KeySpan append_run(PackedTokens& packed, const int32_t* ids, int64_t length, int64_t position) {
  const KeySpan run{static_cast<int32_t>(packed.size()), static_cast<int32_t>(length), static_cast<int32_t>(position)};
  packed.ids.insert(packed.ids.end(), ids, ids + length);
  for (int64_t i = 0; i < length; ++i) packed.positions.push_back(static_cast<int32_t>(position + i));
  return run;
}

// A segment of the last of `spans`, which sees all of them.
void add_segment(PackedTokens& packed, const std::vector<KeySpan>& spans) {
  const KeySpan& own = spans.back();
  packed.segments.push_back({own.row, own.length, own.position, static_cast<int32_t>(packed.spans.size()), static_cast<int32_t>(spans.size())});
  packed.spans.insert(packed.spans.end(), spans.begin(), spans.end());
}

std::vector<int32_t> block_at(const std::vector<int32_t>& prompt, int64_t position) {
  return {prompt.begin() + position, prompt.begin() + position + kKeyBlock};
}

int64_t length_of(const std::vector<KeySpan>& spans) { return spans.empty() ? 0 : spans.back().position + spans.back().length; }

}  // namespace

std::vector<KeySpan> TreePacker::beginning(const std::vector<int32_t>& prompt) const {
  std::vector<KeySpan> spans;
  int32_t before = -1;
  for (int64_t at = 0; share_beginnings_ && at + kKeyBlock < static_cast<int64_t>(prompt.size()); at += kKeyBlock) {
    const auto block = blocks_.find({before, block_at(prompt, at)});
    if (block == blocks_.end()) break;
    before = block->second;
    if (!spans.empty() && spans.back().row + spans.back().length == before) spans.back().length += kKeyBlock;
    else spans.push_back({before, kKeyBlock, static_cast<int32_t>(at)});
  }
  return spans;
}

void TreePacker::remember(const std::vector<int32_t>& prompt, const std::vector<KeySpan>& spans) {
  int32_t before = -1;
  for (const KeySpan& span : spans) {
    for (int32_t i = 0; i + kKeyBlock <= span.length; i += kKeyBlock) {
      blocks_.try_emplace({before, block_at(prompt, span.position + i)}, span.row + i);
      before = span.row + i;
    }
  }
}

int64_t TreePacker::prompt_rows(const std::vector<int32_t>& prompt) const {
  return static_cast<int64_t>(prompt.size()) - length_of(beginning(prompt));
}

std::vector<TreePacker::Continuation> TreePacker::add_tree(const std::vector<int32_t>& prompt,
                                                           const std::vector<std::vector<int32_t>>& continuations) {
  check(!prompt.empty(), ErrorCode::invalid_argument, "a prompt needs at least one token");
  for (size_t i = 0; i < continuations.size(); ++i)
    check(!continuations[i].empty(), ErrorCode::invalid_argument, "continuation ", i, " is empty; it needs at least one token");

  const auto prompt_length = static_cast<int64_t>(prompt.size());
  std::vector<KeySpan> spans = beginning(prompt);
  const int64_t shared = length_of(spans);
  spans.push_back(append_run(packed_, prompt.data() + shared, prompt_length - shared, shared));
  add_segment(packed_, spans);
  if (share_beginnings_) remember(prompt, spans);

  const int32_t last_row = spans.back().row + spans.back().length - 1;
  std::vector<Continuation> out(continuations.size());
  for (size_t i = 0; i < continuations.size(); ++i) {
    auto& rows = out[i].predictor_rows;
    rows.push_back(last_row);
    const auto computed = static_cast<int64_t>(continuations[i].size()) - 1;  // nothing follows the last token: it needs no row
    if (computed == 0) continue;
    spans.push_back(append_run(packed_, continuations[i].data(), computed, prompt_length));
    add_segment(packed_, spans);
    for (int32_t r = 0; r < computed; ++r) rows.push_back(spans.back().row + r);
    spans.pop_back();
  }
  return out;
}

PackedTokens TreePacker::take() {
  PackedTokens taken = std::move(packed_);
  packed_ = PackedTokens{};
  blocks_.clear();
  return taken;
}

}  // namespace rlhi
