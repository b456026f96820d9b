// What attention's kernels share in which one warp brings (TMA) and warpgroups compute: items of work and how they are dealt, rings of
// places in shared memory, and the copies.
#pragma once
#include "ops/cuda/kernels/attention_tile.cuh"

namespace rlhi::ops::cuda {

// Items, tiles of queries times heads with heads fastest, come most work first; every other round is dealt in reverse order.
struct Deal {
  const QueryTile* tiles;
  int items, heads;                           // heads of an item: 1, or one a warpgroup
};

// What the warpgroups know of an item. Each has 64 rows of its own: of one head, or the same rows each of another head.
template <int kGroups>
struct TileItem {
  int row, rows, position, head;              // row of q; rows of the tile; of its first row; its first head
  StepRange steps[kGroups];                   // of each warpgroup
};

// Heads that share keys, one a warpgroup: so their steps are the same, and a short segment leaves no warpgroup without rows.
template <int kGroups>
int heads_at_once(const AttentionArgs& a) {
  return a.n_heads / a.n_kv_heads % kGroups == 0 ? kGroups : 1;
}

// A block for each multiprocessor, or for each item where those are fewer.
template <class... Parameters, class... Arguments>
void launch_dealt(const Launch& at, int64_t items, int threads, int shared_bytes, void (*kernel)(Parameters...), const Arguments&... arguments) {
  check(items < (int64_t{1} << 30), ErrorCode::invalid_argument, "attention: ", items, " tiles and heads are too many");
  launch(at, items < at.multiprocessors ? items : at.multiprocessors, threads, static_cast<size_t>(shared_bytes), kernel, arguments...);
}

#if RLHI_HAS_GROUP_PRODUCTS
RLHI_DEVICE int item_at(uint32_t round) {
  return static_cast<int>(round) * grid_size() + (round % 2 == 0 ? block_index() : grid_size() - 1 - block_index());
}

// Step n of a ring of kPlaces: its place, and the parity that a barrier's phase of this step has.
template <int kPlaces>
struct Ring {
  uint32_t step = 0;
  RLHI_DEVICE int place() const { return static_cast<int>(step % kPlaces); }
  RLHI_DEVICE int place_before() const { return static_cast<int>((step - 1) % kPlaces); }
  RLHI_DEVICE int parity() const { return static_cast<int>(step / kPlaces % 2); }
  RLHI_DEVICE int parity_before() const { return parity() ^ 1; }
};

RLHI_DEVICE void warp_arrive(SharedBarrier* b) {
  sync_warp();
  if (thread_index() % 32 == 0) barrier_arrive(b);
}

// kGroups warpgroups compute, and one warp of the group behind them brings, with registers dealt anew between the two.
template <int kGroups, int kComputeRegisters, int kBringRegisters, class Compute, class Bring>
RLHI_DEVICE void in_roles(const Compute& compute, const Bring& bring) {
  if (thread_index() < kGroups * kGroupThreads) {
    take_registers<kComputeRegisters>();
    compute();
  } else {
    give_registers<kBringRegisters>();
    if (thread_index() < kGroups * kGroupThreads + 32) bring();
  }
}

// Begins copying the map's box of rows from `row` on, and a head's columns, to row `to_row` of a tile of kRows rows. By one thread.
template <int kRows, int kD>
RLHI_DEVICE void copy_rows(unsigned char* tile, int to_row, const TensorMap& map, int row, int column, SharedBarrier* there) {
  for (int panel = 0; panel < panels_of(kD); ++panel) copy_box(tile + (panel * kRows + to_row) * 128, map, column + panel * 64, row, there);
}
// Rows from `first` on become zero, by a warp. A weight of 0 hides no value that is not finite, and behind a span lie the rows of others.
template <int kRows, int kD>
RLHI_DEVICE void clear_rows(unsigned char* tile, int first) {
  for (int panel = 0; panel < panels_of(kD); ++panel) {
    unsigned char* const rest = tile + (panel * kRows + first) * 128;
    for (int i = thread_index() % 32; i < (kRows - first) * 8; i += 32) store_words(rest + i * 16, Words4{{0, 0, 0, 0}});
  }
}

// An item as the warp that brings finds it.
template <int kGroups>
struct QueryItem {
  QuerySegment segment;
  int head, row, rows, position;
  QueryRange range;
  bool one_head;                              // of all warpgroups

  RLHI_DEVICE QueryItem(const AttentionInputs& in, const Deal& deal, int at) {
    const int parts = in.n_heads / deal.heads;
    const QueryTile tile = deal.tiles[at / parts];
    segment = in.segments[tile.segment];
    one_head = deal.heads == 1;
    head = at % parts * deal.heads, row = segment.row + tile.first;
    rows = least(kGroups * kGroupRows / deal.heads, segment.length - tile.first), position = segment.position + tile.first;
    range = {position, position + rows - 1};
  }
  // Warpgroups that have rows.
  RLHI_DEVICE int groups() const { return one_head ? (rows + kGroupRows - 1) / kGroupRows : kGroups; }
  // By a warp; the barrier that follows shows it to others.
  template <int kKeys>
  RLHI_DEVICE void tell(const AttentionInputs& in, TileItem<kGroups>& item) const {
    const int lane = thread_index() % 32;
    if (lane < kGroups) {
      const int first = one_head ? lane * kGroupRows : 0;
      StepRange steps = steps_of<kKeys>(in, segment, range, {position + first, position + least(rows, first + kGroupRows) - 1});
      if (first >= rows) steps.first = steps.end = 0;
      item.steps[lane] = steps;
    }
    if (lane == 0) item.row = row, item.rows = rows, item.position = position, item.head = head;
    sync_warp();
  }
  // Begins copying the rows of every warpgroup, by one thread; the map's boxes have kGroupRows rows.
  template <int kD>
  RLHI_DEVICE void copy(unsigned char* tile, const TensorMap& map, SharedBarrier* there) const {
    for (int g = 0; g < groups(); ++g)
      copy_rows<kGroups * kGroupRows, kD>(tile, g * kGroupRows, map, row + (one_head ? g * kGroupRows : 0), (one_head ? head : head + g) * kD, there);
  }
};

// Where a thread of a warpgroup stands in an item.
struct GroupPlace {
  int group, head, group_row, row;            // head of the item; the warpgroup's first row of the tile; the thread's, the other is 8 below

  RLHI_DEVICE explicit GroupPlace(bool one_head) {
    group = static_cast<int>(warp_uniform(static_cast<uint32_t>(thread_index() / kGroupThreads)));
    head = one_head ? 0 : group, group_row = one_head ? group * kGroupRows : 0;
    row = group_row + thread_index() % kGroupThreads / 32 * 16 + thread_index() % 32 / 4;
  }
  template <int kGroups>
  RLHI_DEVICE QueryRange queries(const TileItem<kGroups>& item) const {
    return {item.position + group_row, item.position + least(item.rows, group_row + kGroupRows) - 1};
  }
};
#endif

}  // namespace rlhi::ops::cuda
