// The backend's life, its memory, and the table.
#include "ops/cpu/cpu_backend.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/sanitizers.h"
#include "base/system.h"
#include "ops/cpu/backend.h"
#include "ops/cpu/traced_table.h"

namespace rlhi::ops {

// Large blocks ask for huge pages: packed weights are read from end to end, and small pages would cost a miss every 4 KB.
void* aligned_allocate(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = bytes >= kHugePage / 8 ? kHugePage : 64;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
#if defined(__linux__)
  if (memory && alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: nothing to do where it is refused
#endif
  if (memory) sanitizer::close_memory(static_cast<char*>(memory) + bytes, rounded - bytes);
  return memory;
}
void aligned_release(void* memory) { std::free(memory); }

Scratch::~Scratch() { aligned_release(data_); }

void* Scratch::bytes(size_t n) {
  if (n > bytes_) {
    aligned_release(data_);
    data_ = nullptr;
    bytes_ = 0;
    data_ = aligned_allocate(n);
    check(data_ != nullptr, ErrorCode::out_of_memory, "no ", n, " bytes of scratch memory");
    bytes_ = n;
  }
  sanitizer::open_memory(data_, n);
  sanitizer::close_memory(static_cast<char*>(data_) + n, bytes_ - n);
  return data_;
}

const Kernels& kernels_of(CpuIsa isa) {
  bool available = false;
  for (const CpuIsa other : available_isas()) available = available || other == isa;
  check(available, ErrorCode::unsupported, "this machine cannot run the ", isa_name(isa), " kernels");
  switch (isa) {
    case CpuIsa::avx2: return *avx2_kernels();
    case CpuIsa::avx512: return *avx512_kernels();
    case CpuIsa::avx512_bf16:
    case CpuIsa::amx: return *avx512_bf16_kernels();  // every processor with AMX has it
    case CpuIsa::portable:
    case CpuIsa::portable_tiles: break;
  }
  return *portable_kernels();
}

const TileKernels* tiles_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable_tiles: return plain_tiles();
    case CpuIsa::avx512_bf16: return avx512_bf16_tiles();
    case CpuIsa::amx: return amx_tiles();
    case CpuIsa::portable:
    case CpuIsa::avx2:
    case CpuIsa::avx512: break;
  }
  return nullptr;
}

namespace {

bool keeps_logits(const TileKernels* tiles, DType head) { return head != DType::bf16 || !tiles; }

}  // namespace

bool keeps_logits(CpuIsa isa, DType head) { return keeps_logits(tiles_of(isa), head); }

namespace {

bool backend_keeps_logits(Backend* backend, DType head) { return keeps_logits(backend->tiles, head); }

// Large blocks are pages of their own: zero, and there only once written, so that what is set aside for the longest answers
// costs nothing until they come, and the thread that works on a page is the one that touches it first.
constexpr size_t kPagesBytes = size_t{1} << 20;

void* alloc(Backend*, size_t bytes) {
#if defined(__linux__)
  if (bytes >= kPagesBytes) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    madvise(pages, bytes, MADV_HUGEPAGE);
    return pages;
  }
#endif
  void* p = aligned_allocate(bytes > 0 ? bytes : 64);
  if (p) std::memset(p, 0, bytes);
  return p;
}
void release(Backend*, void* p, size_t bytes) {
#if defined(__linux__)
  if (p && bytes >= kPagesBytes) {
    munmap(p, bytes);
    return;
  }
#endif
  aligned_release(p);
}
void move_bytes(Backend*, void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void zero(Backend* backend, void* p, size_t bytes) {
  constexpr int64_t grain = int64_t{1} << 20;
  for_ranges(*backend, static_cast<int64_t>(bytes), grain,
             [&](int64_t begin, int64_t end, int) { std::memset(static_cast<char*>(p) + begin, 0, static_cast<size_t>(end - begin)); }, 4096);
}

int64_t available_bytes(Backend*) { return available_memory_bytes(); }

Table make_table(const char* name) {
  Table t = {};
  t.abi_version = kAbiVersion;
  t.backend_name = name;
  t.alloc = alloc;
  t.release = release;
  t.upload = move_bytes;
  t.download = move_bytes;
  t.available_bytes = available_bytes;
  // Whatever was asked for has been done when the call returns.
  t.mark = [](Backend*) { return uint64_t{0}; };
  t.passed = [](Backend*, uint64_t) { return true; };
  t.wait = [](Backend*, uint64_t) {};
  t.alloc_host = alloc;
  t.release_host = release;
  t.fetch = move_bytes;
  t.repeated = do_each_time;
  t.packed_bytes = packed_bytes;
  t.keeps_logits = backend_keeps_logits;
#define RLHI_TRACED(operation)                                          \
  do {                                                                  \
    static constexpr const char* kName = #operation;                    \
    t.operation = Traced<&Table::operation, operation, kName>::run;     \
  } while (false);
  RLHI_OPERATIONS(RLHI_TRACED)
#undef RLHI_TRACED
  return t;
}

}  // namespace

struct CpuBackend::Impl {
  Impl(const CpuBackendOptions& options, int threads) : backend(options.isa, threads), name(concat("cpu/", isa_name(options.isa))),
      table(make_table(name.c_str())) {}
  Backend backend;
  std::string name;
  Table table;
};

CpuBackend::CpuBackend(const CpuBackendOptions& options) {
  check(options.threads >= 0 && options.threads <= 4096, ErrorCode::invalid_argument, "threads is ", options.threads,
        ", expected 0 to 4096");
  impl_ = std::make_unique<Impl>(options, options.threads > 0 ? options.threads : cpu_features().logical_cores);
}
CpuBackend::~CpuBackend() = default;

Backend* CpuBackend::handle() const { return &impl_->backend; }
const Table& CpuBackend::table() const { return impl_->table; }
void CpuBackend::start_trace() { impl_->backend.trace = std::make_unique<Trace>(); }
void CpuBackend::write_trace(const std::string& path) {
  check(impl_->backend.trace != nullptr, ErrorCode::invalid_argument, "no trace was started");
  impl_->backend.trace->write(path);
  impl_->backend.trace.reset();
}

int CpuBackend::threads() const { return impl_->backend.pool.threads(); }

}  // namespace rlhi::ops
