// Attention of query segments over key spans: blocks of keys, online softmax in f32 (Milakov and Gimelshein,
// arXiv:1805.02867; Dao et al., arXiv:2205.14135), never a matrix of tokens by tokens.
#include "ops/cpu/attention_decode.h"

namespace rlhi::ops {
namespace {

int64_t forward_floats(const Kernels& kernels, int head_dim) {
  const int64_t stride = round_up(head_dim, kernels.nr);
  return 3 * kTileColumns * stride + kKeyBlock * (kScoreStride + 2 * stride + kFewColumns) + 4 * kTileColumns + 256;
}

void run_tile(const Kernels& kernels, Scratch& scratch, const QueryTile& tile) {
  const AttentionArgs& a = tile.args;
  const int64_t n = a.head_dim, stride = round_up(n, kernels.nr), width = round_up(tile.columns, kernels.nr);
  TileMemory memory(scratch, forward_floats(kernels, a.head_dim));
  float* rows = memory.take(tile.columns * stride);
  float* columns = memory.take(width * n);
  float* sums = memory.take(tile.columns * stride);
  float* keys = memory.take(kKeyBlock * (n + kFewColumns));
  float* values = memory.take(kKeyBlock * stride);
  float* scores = memory.take(static_cast<int64_t>(kKeyBlock) * kScoreStride);
  float *position = memory.take(width), *running_max = memory.take(width), *running_sum = memory.take(width), *rescale = memory.take(width);
  for (int c = 0; c < width; ++c) {
    position[c] = static_cast<float>(tile.position(std::min(c, tile.columns - 1)));
    running_max[c] = kNoScore;
    running_sum[c] = 0;
  }
  std::fill(sums, sums + tile.columns * stride, 0.0f);
  gather_columns(kernels, tile, a.q, a.scale, rows, stride);
  const bool few = has_few_columns(kernels, tile);
  if (few) {
    kernels.pack_a(columns, rows, DType::f32, stride, false, tile.columns, n);
    std::fill(scores, scores + kKeyBlock * kScoreStride, 0.0f);  // the softmax reads whole vectors
  } else {
    pack_columns_of(kernels, tile, rows, stride, columns);
  }

  tile.for_key_blocks([&](const KeyBlock& block) {
    if (few) multiply_few(kernels, tile, block, a.k, columns, keys, scores);
    else pack_keys(kernels, tile, block, a.k, keys);
    int64_t value_stride = 0;
    const float* v = key_rows(kernels, tile, block, a.v, values, value_stride);
    tile.for_parts(block, [&](const QueryTile& part, int first, const KeyBlock& seen) {
      if (!few) multiply_keys(kernels, part, seen, keys, columns + first * n, scores);
      AttentionBlock b;
      b.scores = scores;
      b.keys = seen.keys;
      b.columns = static_cast<int>(round_up(part.columns, kernels.width));
      b.masked = seen.masked;
      b.first_position = static_cast<float>(seen.position);
      b.window = static_cast<float>(a.window);
      b.position = position + first;
      b.running_max = running_max + first, b.running_sum = running_sum + first, b.rescale = rescale + first;
      kernels.attention_softmax(b);
      for (int c = first; c < first + part.columns; ++c) {
        if (rescale[c] != 1.0f) kernels.scale(sums + c * stride, rescale[c], n);
      }
      add_to_columns(kernels, part, seen, scores, v, value_stride, sums + first * stride, stride);
    });
  });

  for (int c = 0; c < tile.columns; ++c) {
    const float sum = running_sum[c];
    char* out = row_pointer(a.out, tile.row(c), tile.head(c) * n);
    if (sum > 0) {
      kernels.convert(out, a.out.dtype, sums + c * stride, DType::f32, n, 1.0f / sum);
    } else {  // a query that sees no key
      kernels.convert(out, a.out.dtype, sums + c * stride, DType::f32, n, 1.0f);
    }
    if (a.lse) {
      reinterpret_cast<float*>(row_pointer(a.lse, tile.row(c)))[tile.head(c)] = log_sum_exp(running_max[c], sum);
    }
  }
}

// Tiles from the last to the first: the later ones of a segment see more keys and should not be begun last.
void add_tiles(std::vector<AttentionTask>& tasks, const AttentionArgs& a, int64_t segment) {
  const int64_t columns = static_cast<int64_t>(a.segments[segment].length) * (a.n_heads / a.n_kv_heads);
  for (int64_t tile = (columns + kTileColumns - 1) / kTileColumns - 1; tile >= 0; --tile) {
    for (int g = 0; g < a.n_kv_heads; ++g) tasks.push_back({{segment}, tile * kTileColumns, g, 1});
  }
}

// Groups small enough that every thread gets several; a group's heads lie side by side in memory and stay together if there are enough groups.
void add_groups(std::vector<AttentionTask>& tasks, const AttentionArgs& a, int threads) {
  const int64_t wanted = 4 * static_cast<int64_t>(threads);
  const int64_t limit = std::max<int64_t>(1, a.n_segments * a.n_kv_heads / wanted);
  for (int64_t i = 0; i < a.n_segments;) {
    if (!decodes(a, a.segments[i])) {
      ++i;
      continue;
    }
    const DecodeGroup group = group_at(a, i, limit);
    const int heads = a.n_segments / group.count >= wanted ? a.n_kv_heads : 1;
    for (int g = 0; g < a.n_kv_heads; g += heads) tasks.push_back({group, -1, g, heads});
    i += group.count;
  }
}

}  // namespace

void attention(Backend* backend, const AttentionArgs& a) {
  check_attention("attention", a);
  const bool tiles = uses_tiles(*backend, a);
  std::vector<AttentionTask>& tasks = backend->attention_tasks;
  tasks.clear();
  for (int64_t i = a.n_segments - 1; i >= 0; --i) {
    if (!tiles || !decodes(a, a.segments[i])) add_tiles(tasks, a, i);
  }
  if (tiles) add_groups(tasks, a, backend->pool.threads());
  backend->pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    const AttentionTask& task = tasks[static_cast<size_t>(i)];
    Scratch& scratch = backend->local[static_cast<size_t>(thread)];
    if (task.first_column < 0) {
      attention_decode_by_tiles(backend, scratch, a, task.group, task.kv_head, task.kv_heads);
      return;
    }
    const QuerySegment& segment = a.segments[task.group.first];
    const int group = a.n_heads / a.n_kv_heads;
    const int64_t columns = static_cast<int64_t>(segment.length) * group - task.first_column;
    const QueryTile tile{a, segment, task.kv_head, group, task.first_column, static_cast<int>(std::min<int64_t>(kTileColumns, columns))};
    if (tiles) attention_by_tiles(backend, scratch, tile);
    else run_tile(backend->kernels, scratch, tile);
  });
}

}  // namespace rlhi::ops
