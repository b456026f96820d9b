// AdamW, whose moments lie in the GPU's memory or pass through it from the host's, sums of squares, and clipping.
#include <algorithm>

#include "ops/checks.h"
#include "ops/cuda/backend.h"

namespace rlhi::ops::cuda {
namespace {

// Elements [begin, begin + n) of an update, begin a multiple of kMomentBlock. What the kernel does with an element follows from
// first_element and its place, so the parts give the bits of the whole.
AdamWArgs part_of(const AdamWArgs& whole, int64_t begin, int64_t n) {
  const auto moved = [&](const void* p, int64_t size) { return const_cast<char*>(static_cast<const char*>(p)) + begin * size; };
  AdamWArgs part = whole;
  part.n = n, part.first_element = whole.first_element + begin;
  part.weight = moved(whole.weight, dtype_size(whole.dtype)), part.grad = moved(whole.grad, dtype_size(whole.grad_dtype));
  part.m = moved(whole.m, moment_size(whole.moments)), part.v = moved(whole.v, moment_size(whole.moments));
  if (whole.remainder) part.remainder = whole.remainder + begin;
  if (whole.m_scales) part.m_scales = whole.m_scales + begin / kMomentBlock;
  if (whole.v_scales) part.v_scales = whole.v_scales + begin / kMomentBlock;
  return part;
}

// While a piece is computed, the next one comes in and the one before goes out. For whoever uses the compute stream nothing differs from
// moments on the GPU: copies in begin after what came before on it, and it goes on after the last copies out. The host waits for nothing.
void update_by_pieces(CudaBackend& cuda, const AdamWArgs& args) {
  if (!cuda.moment_traffic) cuda.moment_traffic = std::make_unique<MomentTraffic>();
  MomentTraffic& traffic = *cuda.moment_traffic;
  const runtime::Stream in = traffic.in.stream, compute = cuda.launch.stream, out = traffic.out.stream;
  auto* staging = static_cast<char*>(traffic.staging.bytes(static_cast<size_t>(moment_staging_bytes(args.n, args.moments, args.moment_piece))));
  const int64_t stride = moment_piece_bytes(args.n, args.moments, args.moment_piece), pieces = (args.n + args.moment_piece - 1) / args.moment_piece;
  runtime::record(traffic.begun.event, compute);
  runtime::wait_for(in, traffic.begun.event);
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t begin = i * args.moment_piece, slot = i % kMomentSlots;
    const AdamWArgs piece = part_of(args, begin, std::min(args.moment_piece, args.n - begin));
    const auto bytes = static_cast<size_t>(piece.n * moment_size(args.moments));
    const MomentTraffic::Slot& events = traffic.slots[static_cast<size_t>(slot)];
    AdamWArgs staged = piece;
    staged.m = staging + 2 * slot * stride, staged.v = staging + (2 * slot + 1) * stride;

    if (i >= kMomentSlots) runtime::wait_for(in, events.left.event);
    runtime::copy_in(in, staged.m, piece.m, bytes);
    runtime::copy_in(in, staged.v, piece.v, bytes);
    runtime::record(events.arrived.event, in);

    runtime::wait_for(compute, events.arrived.event);
    adamw(cuda.launch, staged);
    runtime::record(events.computed.event, compute);

    runtime::wait_for(out, events.computed.event);
    runtime::copy_out(out, piece.m, staged.m, bytes);
    runtime::copy_out(out, piece.v, staged.v, bytes);
    runtime::record(events.left.event, out);
    if (i + 1 == pieces) runtime::wait_for(compute, events.left.event);
  }
}

}  // namespace

void update(Backend* backend, const AdamWArgs& args) {
  check_adamw(args);
  if (args.n <= 0) return;
  CudaBackend& cuda = enter(backend);
  if (args.moments_on_host) update_by_pieces(cuda, args);
  else adamw(cuda.launch, args);
}

void gradient_squares(Backend* backend, Tensor x, double* sum) {
  check_sum_of_squares(x);
  CudaBackend& cuda = enter(backend);
  sum_of_squares(cuda.launch, x.data, x.dtype, x.size(), cuda.kernel.bytes(sum_of_squares_scratch(x.size())), sum);
}

void clip(Backend* backend, const double* squares, int64_t n, double max_norm, float* factor) {
  clip_factor(enter(backend).launch, squares, n, max_norm, factor);
}

}  // namespace rlhi::ops::cuda
