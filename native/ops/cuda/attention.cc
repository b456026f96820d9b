// Attention's host side: the kernels' work lists, their scratch, and the launches.
#include "ops/checks.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/gradient_trial.h"

namespace rlhi::ops::cuda {
namespace {

// The arguments with segments and spans on the device.
AttentionArgs on_device(CudaBackend& cuda, AttentionArgs a) {
  a.segments = cuda.arrays.on_device(a.segments, a.n_segments);
  a.spans = cuda.arrays.on_device(a.spans, a.n_spans);
  return a;
}

template <class T>
const T* on_device(CudaBackend& cuda, const std::vector<T>& list) {
  return cuda.arrays.on_device(list.data(), static_cast<int64_t>(list.size()));
}

}  // namespace

void attention(Backend* backend, const AttentionArgs& a) {
  check_attention("attention", a);
  if (a.q.rows == 0 || a.n_segments == 0) return;
  CudaBackend& cuda = enter(backend);
  const AttentionPlan plan = plan_attention(a);
  const ForwardLists& lists = cuda.lists.forward(a, plan);
  const AttentionArgs args = on_device(cuda, a);
  if (!lists.tiles.empty())
    cuda::attention(cuda.launch, plan, args, on_device(cuda, lists.tiles), static_cast<int64_t>(lists.tiles.size()));
  if (lists.segments.empty()) return;
  DecodeWork work;
  work.splits = on_device(cuda, lists.splits), work.n_splits = static_cast<int64_t>(lists.splits.size());
  work.queries = on_device(cuda, lists.queries);
  work.segments = on_device(cuda, lists.segments), work.n_segments = static_cast<int64_t>(lists.segments.size());
  work.n_blocks = lists.n_blocks;
  attention_decode(cuda.launch, args, work, cuda.kernel.bytes(attention_decode_scratch(args, lists.n_blocks)));
}

void attention_backward(Backend* backend, const AttentionBackwardArgs& args) {
  check_attention_backward(args);
  if (args.forward.q.rows == 0) return;
  CudaBackend& cuda = enter(backend);
  AttentionPlan plan = plan_attention_backward(args, true);
  if (plan.specialized && !prefers_specialized_gradients(cuda.launch, args.forward)) plan = plan_attention_backward(args, false);
  const BackwardLists& lists = cuda.lists.backward(args.forward, plan);
  AttentionBackwardArgs device = args;
  device.forward = on_device(cuda, args.forward);
  BackwardTiles tiles;
  tiles.query_tiles = on_device(cuda, lists.query_tiles), tiles.n_query_tiles = static_cast<int64_t>(lists.query_tiles.size());
  tiles.key_tiles = on_device(cuda, lists.key_tiles), tiles.n_key_tiles = static_cast<int64_t>(lists.key_tiles.size());
  tiles.visitors = on_device(cuda, lists.visitors);
  cuda::attention_backward(cuda.launch, plan, device, tiles, cuda.kernel.bytes(attention_backward_scratch(device)));
}

}  // namespace rlhi::ops::cuda
