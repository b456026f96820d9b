#include "ops/cuda/kernels/attention_plain.cuh"

#include "ops/cuda/kernels/attention_tile.cuh"
#include "ops/cuda/kernels/rows.cuh"

namespace rlhi::ops::cuda {
namespace {

constexpr int kThreads = 32 * kPlainRows, kLaneKeys = kKeyBlock / 32;

struct PlainInputs {
  AttentionInputs in;            // its data pointers are not used
  Rows q, k, v, out, dout, dq, dk, dv, lse;
};
PlainInputs plain_inputs(const AttentionArgs& a) {
  PlainInputs p;
  p.in = inputs_of(a);
  p.q = a.q, p.k = a.k, p.v = a.v, p.out = a.out, p.lse = a.lse;
  return p;
}

RLHI_DEVICE float element(const Rows& rows, int64_t row, int64_t column) {
  float x[1];
  load_floats(x, rows.at(row, column), rows.is_f32);
  return x[0];
}
RLHI_DEVICE void set_element(const Rows& rows, int64_t row, int64_t column, float value) {
  const float x[1] = {value};
  store_floats(rows.at(row, column), rows.is_f32, x);
}
RLHI_DEVICE float dot(const float* a, const Rows& rows, int64_t row, int64_t column, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum = fused_multiply_add(a[d], element(rows, row, column + d), sum);
  return sum;
}
RLHI_DEVICE bool sees(int query, int key, int window) { return key <= query && (window == 0 || key > query - window); }

// A warp's shared memory: n floats each of three vectors, and 2 kKeyBlock weights.
RLHI_DEVICE float* warp_memory(int n) {
  return reinterpret_cast<float*>(shared_memory()) + thread_index() / 32 * (4 * n + 2 * kKeyBlock);
}
size_t plain_bytes(int n) { return static_cast<size_t>(kPlainRows) * static_cast<size_t>(4 * n + 2 * kKeyBlock) * sizeof(float); }

// One warp: one query of one head.
RLHI_KERNEL(kThreads, 1)
void plain_forward_kernel(PlainInputs p, const QueryTile* tiles) {
  const AttentionInputs& in = p.in;
  const int n = in.head_dim, lane = thread_index() % 32, head = block_index() % in.n_heads, kv = head / in.group * n;
  const QueryTile tile = tiles[block_index() / in.n_heads];
  const QuerySegment segment = in.segments[tile.segment];
  const int i = tile.first + thread_index() / 32;
  if (i >= segment.length) return;  // a warp alike; warps do not wait for one another
  const int64_t row = segment.row + i;
  const int position = segment.position + i;
  float *q = warp_memory(n), *sum = q + n, *weights = sum + n;
  for (int d = lane; d < n; d += 32) q[d] = element(p.q, row, head * n + d) * in.scale, sum[d] = 0;
  sync_warp();
  float maximum = negative_infinity(), total = 0;
  BlockWalk walk = BlockWalk::over(segment, {position, position});
  for (KeyBlock b = walk.next(in); b.keys > 0; b = walk.next(in)) {
    float s[kLaneKeys], block_maximum = negative_infinity();
    for (int u = 0; u < kLaneKeys; ++u) {
      const int key = lane + 32 * u;
      const bool seen = key < b.keys && sees(position, b.position + key, in.window);
      s[u] = seen ? dot(q, p.k, b.row + key, kv, n) : negative_infinity();
      block_maximum = fmaxf(block_maximum, s[u]);
    }
    block_maximum = lanes_max(block_maximum);
    if (block_maximum == negative_infinity()) continue;
    float part = 0;
    for (int u = 0; u < kLaneKeys; ++u) {
      weights[lane + 32 * u] = s[u] = expf(s[u] - block_maximum);
      part += s[u];
    }
    const float together = fmaxf(maximum, block_maximum), before = expf(maximum - together), factor = expf(block_maximum - together);
    total = fused_multiply_add(lanes_sum(part), factor, total * before);
    maximum = together;
    sync_warp();
    for (int d = lane; d < n; d += 32) {
      float value = 0;
      for (int key = 0; key < b.keys; ++key) value = fused_multiply_add(weights[key], element(p.v, b.row + key, kv + d), value);
      sum[d] = fused_multiply_add(value, factor, sum[d] * before);
    }
    sync_warp();
  }
  for (int d = lane; d < n; d += 32) set_element(p.out, row, head * n + d, total > 0 ? sum[d] / total : 0.0f);
  if (p.lse && lane == 0) set_element(p.lse, row, head, total > 0 ? maximum + logf(total) : negative_infinity());
}

// One warp: dq of one query of one head.
RLHI_KERNEL(kThreads, 1)
void plain_dq_kernel(PlainInputs p, const QueryTile* tiles, const float* delta) {
  const AttentionInputs& in = p.in;
  const int n = in.head_dim, lane = thread_index() % 32, head = block_index() % in.n_heads, kv = head / in.group * n;
  const QueryTile tile = tiles[block_index() / in.n_heads];
  const QuerySegment segment = in.segments[tile.segment];
  const int i = tile.first + thread_index() / 32;
  if (i >= segment.length) return;
  const int64_t row = segment.row + i;
  const int position = segment.position + i;
  float *q = warp_memory(n), *dout = q + n, *dq = dout + n, *ds = dq + n;
  for (int d = lane; d < n; d += 32) {
    q[d] = element(p.q, row, head * n + d) * in.scale, dout[d] = element(p.dout, row, head * n + d), dq[d] = 0;
  }
  sync_warp();
  const float lse = element(p.lse, row, head), row_delta = delta[row * in.n_heads + head];
  BlockWalk walk = BlockWalk::over(segment, {position, position});
  for (KeyBlock b = walk.next(in); b.keys > 0; b = walk.next(in)) {
    for (int key = lane; key < kKeyBlock; key += 32) {
      ds[key] = 0;
      if (key >= b.keys || !sees(position, b.position + key, in.window)) continue;
      const float weight = expf(dot(q, p.k, b.row + key, kv, n) - lse);
      ds[key] = weight * (dot(dout, p.v, b.row + key, kv, n) - row_delta);
    }
    sync_warp();
    for (int d = lane; d < n; d += 32) {
      for (int key = 0; key < b.keys; ++key) dq[d] = fused_multiply_add(ds[key], element(p.k, b.row + key, kv + d), dq[d]);
    }
    sync_warp();
  }
  for (int d = lane; d < n; d += 32) set_element(p.dq, row, head * n + d, dq[d] * in.scale);
}

// One warp: dk and dv of one key of one key/value head, over everything that sees it: visitors, then heads, then queries.
RLHI_KERNEL(kThreads, 1)
void plain_dkv_kernel(PlainInputs p, const KeyTile* tiles, const Visitor* visitors, int n_kv_heads, const float* delta) {
  const AttentionInputs& in = p.in;
  const int n = in.head_dim, lane = thread_index() % 32, kv_head = block_index() % n_kv_heads;
  const KeyTile tile = tiles[block_index() / n_kv_heads];
  const QuerySegment owner = in.segments[tile.segment];
  const int i = tile.first + thread_index() / 32;
  if (i >= owner.length) return;
  const int64_t row = in.spans[owner.first_span + owner.n_spans - 1].row + i;
  float *k = warp_memory(n), *v = k + n, *dk = v + n, *dv = dk + n, *weights = dv + n, *ds = weights + 32;
  for (int d = lane; d < n; d += 32) {
    k[d] = element(p.k, row, kv_head * n + d) * in.scale, v[d] = element(p.v, row, kv_head * n + d), dk[d] = dv[d] = 0;
  }
  sync_warp();
  for (int w = 0; w < tile.n_visitors; ++w) {
    const Visitor visitor = visitors[tile.first_visitor + w];
    const QuerySegment s = in.segments[visitor.segment];
    const KeySpan span = in.spans[visitor.span];
    if (row < span.row || row >= span.row + span.length) continue;
    const int position = span.position + static_cast<int>(row - span.row);
    const int begin = most(0, position - s.position), end = in.window > 0 ? least(s.length, position + in.window - s.position) : s.length;
    for (int head = kv_head * in.group; head < (kv_head + 1) * in.group; ++head) {
      for (int first = begin; first < end; first += 32) {
        const int64_t query = s.row + first + lane;
        weights[lane] = ds[lane] = 0;
        if (first + lane < end) {
          weights[lane] = expf(dot(k, p.q, query, head * n, n) - element(p.lse, query, head));
          ds[lane] = weights[lane] * (dot(v, p.dout, query, head * n, n) - delta[query * in.n_heads + head]);
        }
        sync_warp();
        for (int d = lane; d < n; d += 32) {
          for (int j = 0; j < least(32, end - first); ++j) {
            dv[d] = fused_multiply_add(weights[j], element(p.dout, s.row + first + j, head * n + d), dv[d]);
            dk[d] = fused_multiply_add(ds[j], element(p.q, s.row + first + j, head * n + d), dk[d]);
          }
        }
        sync_warp();
      }
    }
  }
  for (int d = lane; d < n; d += 32) {
    set_element(p.dk, row, kv_head * n + d, dk[d] * in.scale);
    set_element(p.dv, row, kv_head * n + d, dv[d]);
  }
}

}  // namespace

void plain_attention(const Launch& at, const AttentionArgs& a, const QueryTile* tiles, int64_t n_tiles) {
  launch(at, n_tiles * a.n_heads, kThreads, plain_bytes(a.head_dim), plain_forward_kernel, plain_inputs(a), tiles);
}

void plain_attention_backward(const Launch& at, const AttentionBackwardArgs& b, const BackwardTiles& tiles, const float* delta) {
  const AttentionArgs& a = b.forward;
  PlainInputs p = plain_inputs(a);
  p.dout = b.dout, p.dq = b.dq, p.dk = b.dk, p.dv = b.dv;
  const size_t bytes = plain_bytes(a.head_dim);
  launch(at, tiles.n_query_tiles * a.n_heads, kThreads, bytes, plain_dq_kernel, p, tiles.query_tiles, delta);
  launch(at, tiles.n_key_tiles * a.n_kv_heads, kThreads, bytes, plain_dkv_kernel, p, tiles.key_tiles, tiles.visitors, a.n_kv_heads, delta);
}

}  // namespace rlhi::ops::cuda
