// The table: memory, and the operations that are one launch.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda/backend.h"

namespace rlhi::ops::cuda {
namespace {

// ---- memory ----------------------------------------------------------------------------------------------------------
void* alloc(Backend* backend, size_t bytes) {
  CudaBackend& cuda = enter_alone(backend);
  void* p = runtime::allocate(std::max<size_t>(bytes, 256));
  if (p && bytes > 0) runtime::zero(cuda.launch.stream, p, bytes);
  return p;
}
void release(Backend* backend, void* p, size_t) {
  if (!p) return;
  enter_alone(backend);
  runtime::release(p);  // waits for the work that uses it
}
void upload(Backend* backend, void* to, const void* from_host, size_t bytes) {
  if (bytes == 0) return;
  CudaBackend& cuda = enter_alone(backend);
  runtime::copy_in(cuda.launch.stream, to, from_host, bytes);
  runtime::synchronize(cuda.launch.stream);
}
void download(Backend* backend, void* to_host, const void* from, size_t bytes) {
  if (bytes == 0) return;
  CudaBackend& cuda = enter_alone(backend);
  runtime::copy_out(cuda.launch.stream, to_host, from, bytes);
  runtime::synchronize(cuda.launch.stream);
}
void zero(Backend* backend, void* p, size_t bytes) {
  if (bytes > 0) runtime::zero(enter_alone(backend).launch.stream, p, bytes);
}
int64_t available_bytes(Backend* backend) {
  enter_alone(backend);
  return runtime::free_bytes();
}

uint64_t mark(Backend* backend) {
  CudaBackend& cuda = enter_alone(backend);
  runtime::record(cuda.marks[++cuda.marked % kMarks].event, cuda.launch.stream);
  return cuda.marked;
}
const runtime::OwnEvent& event_of(CudaBackend& cuda, uint64_t mark) {
  check(mark > 0 && mark <= cuda.marked && cuda.marked - mark < kMarks, ErrorCode::internal, "mark ", mark, " of ", cuda.marked, " is not kept");
  return cuda.marks[mark % kMarks];
}
bool passed(Backend* backend, uint64_t mark) {
  CudaBackend& cuda = enter_alone(backend);
  return runtime::passed(event_of(cuda, mark).event);
}
void wait(Backend* backend, uint64_t mark) {
  CudaBackend& cuda = enter_alone(backend);
  runtime::wait(event_of(cuda, mark).event);
}

void* alloc_host(Backend* backend, size_t bytes) {
  enter_alone(backend);
  void* p = runtime::allocate_pinned(std::max<size_t>(bytes, 1));
  if (p) std::memset(p, 0, bytes);
  return p;
}
void release_host(Backend* backend, void* p, size_t) {
  if (!p) return;
  enter_alone(backend);
  runtime::release_pinned(p);
}
void fetch(Backend* backend, void* to_host, const void* from, size_t bytes) {
  if (bytes > 0) runtime::copy_out(enter_alone(backend).launch.stream, to_host, from, bytes);
}

// ---- movement and sums -----------------------------------------------------------------------------------------------
void copy(Backend* backend, Tensor to, Tensor from) {
  check_same_shape("copy", to, from);
  move_rows(enter(backend).launch, to, nullptr, from, nullptr, to.rows);
}
void gather_rows(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_moved_rows("gather_rows", "from", from, "to", to);
  CudaBackend& cuda = enter(backend);
  move_rows(cuda.launch, to, nullptr, from, cuda.arrays.on_device(index, to.rows), to.rows);
}
void scatter_rows(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_moved_rows("scatter_rows", "from", from, "to", to);
  CudaBackend& cuda = enter(backend);
  move_rows(cuda.launch, to, cuda.arrays.on_device(index, from.rows), from, nullptr, from.rows);
}
void embedding(Backend* backend, Tensor out, Tensor table, const int32_t* ids) {
  check_moved_rows("embedding", "table", table, "out", out);
  CudaBackend& cuda = enter(backend);
  move_rows(cuda.launch, out, nullptr, table, cuda.arrays.on_device(ids, out.rows), out.rows);
}

// Rows that go to one place are added there in their order by one thread block, so repeated indices need no atomics.
void scatter_add(Backend* backend, Tensor to, Tensor from, const int32_t* index) {
  check_scatter_add(to, from);
  if (from.rows == 0) return;
  CudaBackend& cuda = enter(backend);
  std::vector<int32_t> order(static_cast<size_t>(from.rows));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return index[a] < index[b]; });
  std::vector<ScatterRun> runs;
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t row = index[order[i]];
    if (runs.empty() || runs.back().row != row) runs.push_back({row, static_cast<int32_t>(i), 0});
    ++runs.back().count;
  }
  const auto n_runs = static_cast<int64_t>(runs.size());
  scatter_add_rows(cuda.launch, to, from, cuda.arrays.on_device(runs.data(), n_runs), n_runs, cuda.arrays.on_device(order.data(), from.rows));
}
void add_to(Backend* backend, Tensor to, Tensor from) {
  check_same_shape("add", to, from);
  add(enter(backend).launch, to, from);
}
void column_sums(Backend* backend, Tensor to, Tensor from) {
  check_column_sum(to, from);
  CudaBackend& cuda = enter(backend);
  column_sum(cuda.launch, to, from, cuda.kernel.bytes(column_sum_scratch(from.rows, from.cols)));
}

// ---- weights as they are ---------------------------------------------------------------------------------------------
size_t packed_bytes(Backend*, DType, int64_t, int64_t) { return 0; }
void pack_weight(Backend*, PackedWeight*, Tensor) { fail(ErrorCode::unsupported, "pack_weight: the CUDA backend packs no weights"); }

// ---- rows of the transformer -----------------------------------------------------------------------------------------
void norm(Backend* backend, Tensor y, Tensor x, Tensor weight, float eps, int groups, Tensor rstd, Tensor copy_x) {
  check_norm_forward(y, x, weight, groups, rstd, copy_x);
  rms_norm(enter(backend).launch, y, x, weight, eps, groups, rstd, copy_x);
}
void norm_backward(Backend* backend, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight, Tensor rstd, int groups,
                   bool accumulate) {
  check_norm_backward(dx, dweight, dy, x, weight, rstd, groups);
  CudaBackend& cuda = enter(backend);
  void* scratch = dweight ? cuda.kernel.bytes(rms_norm_backward_scratch(x.rows, x.cols, groups)) : nullptr;
  rms_norm_backward(cuda.launch, dx, dweight, dy, x, weight, rstd, groups, accumulate, scratch);
}
void rotate(Backend* backend, Tensor x, int head_dim, Tensor cos_sin, const int32_t* positions, int direction) {
  check_rope(x, head_dim, cos_sin, positions);
  CudaBackend& cuda = enter(backend);
  rope(cuda.launch, x, head_dim, cos_sin, cuda.arrays.on_device(positions, x.rows), direction);
}
void gated(Backend* backend, Tensor out, Tensor gate_up) {
  check_swiglu(out, gate_up);
  swiglu(enter(backend).launch, out, gate_up);
}
void gated_backward(Backend* backend, Tensor dgate_up, Tensor dout, Tensor gate_up, Tensor out) {
  check_swiglu_backward(dgate_up, dout, gate_up, out);
  swiglu_backward(enter(backend).launch, dgate_up, dout, gate_up, out);
}

void pair_losses(Backend* backend, const PreferenceLossArgs& given) {
  check_preference_loss(given);
  CudaBackend& cuda = enter(backend);
  PreferenceLossArgs a = given;
  a.pairs = cuda.arrays.on_device(a.pairs, a.n);
  preference_loss(cuda.launch, a);
}

// ---- choosing tokens -------------------------------------------------------------------------------------------------
void choose(Backend* backend, Tensor logits, const TokenChoice* choices, int64_t n, ChosenToken* chosen) {
  check_choose_tokens(logits, choices, n);
  if (n == 0) return;
  CudaBackend& cuda = enter(backend);
  const size_t bytes = static_cast<size_t>(n) * sizeof(RowChoice);
  auto* found = static_cast<RowChoice*>(cuda.statistics.bytes(bytes));
  choose_tokens(cuda.launch, logits, cuda.arrays.on_device(choices, n), n, found);
  std::vector<RowChoice> rows(static_cast<size_t>(n));
  runtime::copy_out(cuda.launch.stream, rows.data(), found, bytes);
  runtime::synchronize(cuda.launch.stream);
  for (int64_t i = 0; i < n; ++i) {
    const RowChoice& r = rows[static_cast<size_t>(i)];
    if (!std::isfinite(r.highest)) fail_logits(choices[i].row, r.highest);
    const double total = std::ldexp(static_cast<double>(r.total), -choice_bits(logits.cols));
    chosen[i] = {r.id, static_cast<float>(static_cast<double>(r.logit) - static_cast<double>(r.highest) - std::log(total))};
  }
}

Table make_table() {
  Table t = {};
  t.abi_version = kAbiVersion;
  t.backend_name = "cuda";
  t.alloc = alloc;
  t.release = release;
  t.upload = upload;
  t.download = download;
  t.zero = zero;
  t.available_bytes = available_bytes;
  t.mark = mark;
  t.passed = passed;
  t.wait = wait;
  t.alloc_host = alloc_host;
  t.release_host = release_host;
  t.fetch = fetch;
  t.repeated = [](Backend* backend, uint64_t key, void (*work)(void*), void* context) { enter(backend).repeated.run(key, work, context); };
  t.copy = copy;
  t.gather_rows = gather_rows;
  t.scatter_rows = scatter_rows;
  t.scatter_add_rows = scatter_add;
  t.add = add_to;
  t.column_sum = column_sums;
  t.packed_bytes = packed_bytes;
  t.pack_weight = pack_weight;
  t.gemm = gemm;
  t.embedding = embedding;
  t.rms_norm = norm;
  t.rms_norm_backward = norm_backward;
  t.rope = rotate;
  t.attention = attention;
  t.attention_backward = attention_backward;
  t.swiglu = gated;
  t.swiglu_backward = gated_backward;
  t.keeps_logits = [](Backend*, DType) { return true; };
  t.linear_logprob = linear_logprob;
  t.linear_logprob_backward = linear_logprob_backward;
  t.preference_loss = pair_losses;
  t.choose_tokens = choose;
  t.adamw = update;
  t.sum_of_squares = gradient_squares;
  t.clip_factor = clip;
  return t;
}

}  // namespace

const Table& table() {
  static const Table filled = make_table();
  return filled;
}

}  // namespace rlhi::ops::cuda
