// Choosing a token from a row of logits: temperature, top-k, top-p, min-p and the draw, by one block a choice.
//
// Weights exp(logit - highest) are the CPU's to the bit, and are summed as integers in units of 2^-choice_bits: sums of integers do
// not depend on the order, so whatever the threads do first, a choice is the same. Where the cuts fall is found by sorting no more than
// is needed: a histogram of distances from the highest logit, then, among the logits of one of its bins, the bits of the threshold from
// the highest down.
#include "ops/cuda/kernels/rows.cuh"
#include "ops/sampling_weight.h"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kBins = 2048, kBinsAUnit = 64;   // 1/64 of a natural unit each, the last without end
constexpr int kDigits = 256;                   // of a threshold's bits at a time
constexpr int kListed = 2048;                  // logits of one bin that are kept in shared memory

struct ChooseMemory {
  uint64_t bins[kBins];
  uint64_t sums[kThreads];
  uint32_t listed[kListed];
  uint32_t n_listed;
  // What one thread found for all.
  uint64_t above, total;
  int32_t place;
};

// Bits in the order of the numbers: 0 and -0 are one. And back.
RLHI_DEVICE uint32_t order_of(float x) {
  const uint32_t u = as_bits(x + 0.0f);
  return u >> 31 ? ~u : u | 0x80000000u;
}
RLHI_DEVICE float number_of(uint32_t order) { return as_float(order >> 31 ? order & 0x7fffffffu : ~order); }

struct Row {
  const float* logits;
  int vocab, bits;                             // bits: choice_bits
  float highest, inverse_temperature;

  RLHI_DEVICE float weight(float logit) const { return exp_nonpositive((logit - highest) * inverse_temperature); }
  RLHI_DEVICE uint64_t units(float weight) const {
    return static_cast<uint64_t>(static_cast<double>(weight) * static_cast<double>(uint64_t{1} << bits));
  }
  RLHI_DEVICE int bin(float logit) const {
    const float distance = (highest - logit) * kBinsAUnit;
    return distance < static_cast<float>(kBins - 1) ? static_cast<int>(distance) : kBins - 1;
  }
};

// f(id, logit) for the ids [begin, end), kGroup a thread at a time, by threads first, first + step, ...
template <int kGroup, class F>
RLHI_DEVICE void for_logits(const float* logits, int begin, int end, int first, int step, const F& f) {
  RLHI_UNROLL_BY(4)
  for (int at = begin + first * kGroup; at < end; at += step * kGroup) {
    float x[kGroup];
    load_floats(x, logits + at, true);
    RLHI_UNROLL
    for (int j = 0; j < kGroup; ++j) f(at + j, x[j]);
  }
}
template <int kGroup, class F>
RLHI_DEVICE void for_row(const Row& row, const F& f) {
  for_logits<kGroup>(row.logits, 0, row.vocab, thread_index(), kThreads, f);
}

RLHI_DEVICE uint64_t block_total(uint64_t v, ChooseMemory& m) {
  const uint64_t sum = block_sum<kThreads>(v, m.sums);
  sync_threads();
  return sum;
}

// Of m.bins[0, n), taken in order (or from the last): the one in which the running sum, from m.above, reaches target(sum of all). m.place
// and m.above, the sum before it, are for all threads when this returns.
template <bool kFromLast, class Target>
RLHI_DEVICE void find_bin(ChooseMemory& m, int n, const Target& target) {
  const int share = n / 32;
  const auto at = [&](int i) -> uint64_t { return m.bins[kFromLast ? n - 1 - i : i]; };
  sync_threads();
  if (thread_index() < 32) {
    uint64_t sum = 0;
    for (int i = 0; i < share; ++i) sum += at(thread_index() * share + i);
    m.sums[thread_index()] = sum;
  }
  sync_threads();
  if (thread_index() == 0) {
    uint64_t all = 0, above = m.above;
    for (int i = 0; i < 32; ++i) all += m.sums[i];
    const uint64_t wanted = target(all);
    int i = 0;
    while (i < 31 && above + m.sums[i] < wanted) above += m.sums[i++];
    i *= share;
    while (i < n - 1 && above + at(i) < wanted) above += at(i++);
    m.place = kFromLast ? n - 1 - i : i, m.above = above, m.total = wanted;
  }
  sync_threads();
}

struct Threshold {
  uint32_t order;                              // of the last logit that stays
  uint64_t wanted, above;                      // the target, and what the logits above it measure together
};

// The logit, among those of order `least` and above, in whose tie the running measure from the highest down reaches target(measure of all).
template <int kGroup, class Measure, class Target>
RLHI_DEVICE Threshold find_threshold(const Row& row, uint32_t least, ChooseMemory& m, const Measure& measure, const Target& target) {
  for (int i = thread_index(); i < kBins; i += kThreads) m.bins[i] = 0;
  if (thread_index() == 0) m.n_listed = 0, m.above = 0;
  sync_threads();
  for_row<kGroup>(row, [&](int, float x) {
    if (order_of(x) < least) return;
    if (const uint64_t v = measure(x); v > 0) add_shared(&m.bins[row.bin(x)], v);
  });
  find_bin<false>(m, kBins, target);
  const int bin = m.place;
  const uint64_t wanted = m.total;
  for_row<kGroup>(row, [&](int, float x) {
    if (order_of(x) < least || row.bin(x) != bin) return;
    if (const uint32_t place = add_shared(&m.n_listed, 1); place < kListed) m.listed[place] = order_of(x);
  });
  sync_threads();
  const int n_listed = static_cast<int>(m.n_listed);
  uint32_t found = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    const uint32_t known = shift == 24 ? 0 : ~0u << (shift + 8);
    for (int i = thread_index(); i < kDigits; i += kThreads) m.bins[i] = 0;
    sync_threads();
    const auto count = [&](uint32_t order) {
      if ((order & known) != found) return;
      if (const uint64_t v = measure(number_of(order)); v > 0) add_shared(&m.bins[order >> shift & (kDigits - 1)], v);
    };
    if (n_listed <= kListed) {
      for (int i = thread_index(); i < n_listed; i += kThreads) count(m.listed[i]);
    } else {
      for_row<kGroup>(row, [&](int, float x) {
        if (order_of(x) >= least && row.bin(x) == bin) count(order_of(x));
      });
    }
    find_bin<true>(m, kDigits, [&](uint64_t) { return wanted; });
    found |= static_cast<uint32_t>(m.place) << shift;
  }
  return {found, wanted, m.above};
}

// The first id at which the running measure, in order of ids, exceeds past(measure of all).
template <int kGroup, class Measure, class Past>
RLHI_DEVICE int walk(const Row& row, ChooseMemory& m, const Measure& measure, const Past& past) {
  // A warp a part of the row, then the threads' pieces of one part, then one thread along its piece.
  const int groups = (row.vocab + kGroup - 1) / kGroup, part = (groups + kWarps - 1) / kWarps * kGroup;
  const int warp = thread_index() / 32, begin = least(row.vocab, warp * part);
  uint64_t sum = 0;
  for_logits<kGroup>(row.logits, begin, least(row.vocab, begin + part), thread_index() % 32, 32, [&](int id, float x) { sum += measure(id, x); });
  sum = lanes_sum(sum);
  sync_threads();
  if (thread_index() % 32 == 0) m.sums[warp] = sum;
  sync_threads();
  if (thread_index() == 0) {
    uint64_t all = 0, before = 0;
    for (int i = 0; i < kWarps; ++i) all += m.sums[i];
    const uint64_t limit = past(all);
    int i = 0;
    while (i < kWarps - 1 && before + m.sums[i] <= limit) before += m.sums[i++];
    m.place = i, m.above = before, m.total = limit;
  }
  sync_threads();
  const int first = least(row.vocab, m.place * part), end = least(row.vocab, first + part), piece = (part + kThreads - 1) / kThreads;
  const int own = least(end, first + thread_index() * piece), own_end = least(end, own + piece);
  sum = 0;
  for (int id = own; id < own_end; ++id) sum += measure(id, row.logits[id]);
  m.sums[thread_index()] = sum;
  sync_threads();
  if (thread_index() == 0) {
    uint64_t before = m.above;
    int i = 0, id = first;
    while (i < kThreads - 1 && before + m.sums[i] <= m.total) before += m.sums[i++];
    for (id = least(end - 1, first + i * piece); id < end - 1; ++id) {
      before += measure(id, row.logits[id]);
      if (before > m.total) break;
    }
    m.place = id;
  }
  sync_threads();
  return m.place;
}

template <int kGroup>
RLHI_KERNEL(kThreads, 1)
void choose_kernel(const float* logits, int64_t stride, int vocab, int bits, const TokenChoice* choices, RowChoice* found) {
  auto& m = *reinterpret_cast<ChooseMemory*>(shared_memory());
  const TokenChoice choice = choices[block_index()];
  Row row{logits + choice.row * stride, vocab, bits, 0, 1};

  // The highest logit in the upper half, and the lowest id of it in the lower.
  uint64_t best = 0;
  bool has_nan = false;
  for_row<kGroup>(row, [&](int id, float x) {
    const uint64_t v = static_cast<uint64_t>(order_of(x)) << 32 | static_cast<uint32_t>(~id);
    best = v > best ? v : best;
    has_nan = has_nan || x != x;
  });
  RLHI_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = shuffle_xor(best, mask);
    best = other > best ? other : best;
  }
  has_nan = warp_any(has_nan);
  if (thread_index() % 32 == 0) m.sums[thread_index() / 32] = best, m.bins[thread_index() / 32] = has_nan;
  sync_threads();
  has_nan = false, best = 0;
  for (int i = 0; i < kWarps; ++i) best = m.sums[i] > best ? m.sums[i] : best, has_nan = has_nan || m.bins[i] != 0;
  sync_threads();
  row.highest = number_of(static_cast<uint32_t>(best >> 32));
  int id = static_cast<int>(~static_cast<uint32_t>(best));
  if (has_nan || row.highest - row.highest != 0) {  // alike in all threads
    if (thread_index() == 0) found[block_index()] = {0, 0, has_nan ? as_float(0x7fc00000u) : row.highest, 0};
    return;
  }

  uint64_t total = 0;
  for_row<kGroup>(row, [&](int, float x) { total += row.units(row.weight(x)); });
  total = block_total(total, m);

  if (choice.temperature > 0) {
    row.inverse_temperature = inverse_temperature(choice.temperature);
    const auto mass = [&](float x) { return row.units(row.weight(x)); };
    uint32_t lowest = 0;
    int last_tie = vocab;                      // of the logits of order `lowest`, those up to this id stay
    if (choice.top_k > 0 && choice.top_k < vocab) {
      lowest = find_threshold<kGroup>(row, 0, m, [](float) { return uint64_t{1}; }, [&](uint64_t) { return static_cast<uint64_t>(choice.top_k); }).order;
    }
    if (choice.top_p < 1) {
      const Threshold t = find_threshold<kGroup>(row, lowest, m, mass, [&](uint64_t all) {
        const auto cut = static_cast<uint64_t>((1 - choice.top_p) * static_cast<double>(all));
        return cut < all ? all - cut : uint64_t{1};
      });
      lowest = t.order;
      const uint64_t each = mass(number_of(lowest)), staying = each > 0 ? (t.wanted - t.above + each - 1) / each : 1;
      last_tie = walk<kGroup>(row, m, [&](int, float x) { return static_cast<uint64_t>(order_of(x) == lowest); }, [&](uint64_t) { return staying - 1; });
    }
    const auto least_weight = static_cast<float>(choice.min_p);
    const auto stays = [&](int i, float x) {
      const uint32_t order = order_of(x);
      if (order < lowest || (order == lowest && i > last_tie)) return uint64_t{0};
      const float weight = row.weight(x);
      return weight < least_weight && x < row.highest ? uint64_t{0} : row.units(weight);
    };
    id = walk<kGroup>(row, m, stays, [&](uint64_t all) {
      const auto at = static_cast<uint64_t>(choice.uniform * static_cast<double>(all));
      return at < all ? at : all - 1;
    });
  }
  if (thread_index() == 0) found[block_index()] = {id, row.logits[id], row.highest, total};
}

}  // namespace

// The sum of all weights, each 1 at most, is below 2^63.
int choice_bits(int64_t vocab) {
  int bits = 46;
  while (bits > 0 && (vocab << 1) > (int64_t{1} << (63 - bits))) --bits;
  return bits;
}

void choose_tokens(const Launch& at, Tensor logits, const TokenChoice* choices, int64_t n, RowChoice* found) {
  const auto kernel = group_size({logits}, logits.cols) == 4 ? choose_kernel<4> : choose_kernel<1>;
  launch(at, n, kThreads, sizeof(ChooseMemory), kernel, static_cast<const float*>(logits.data), logits.row_stride, static_cast<int>(logits.cols),
         choice_bits(logits.cols), choices, found);
}

}  // namespace rlhi::ops::cuda
