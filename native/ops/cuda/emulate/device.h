// kernels/device.cuh in plain C++: threads are fibers (block.h). Layouts of fragments are those of the PTX ISA's figures for
// mma.m16n8k16, ldmatrix and wgmma, so that a kernel that is right here has its indices right.
#pragma once
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/cuda/emulate/block.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/recorder.h"

#define RLHI_DEVICE inline
#define RLHI_GROUP_PRODUCTS 0
#define RLHI_HAS_GROUP_PRODUCTS 1
#define RLHI_KERNEL(threads, blocks_per_multiprocessor) inline
#define RLHI_UNROLL
#define RLHI_UNROLL_BY(n)
#define RLHI_GRID_CONSTANT

namespace rlhi::ops::cuda {

inline int thread_index() { return emulate::current->running->index; }
inline int block_index() { return emulate::current->index; }
inline int grid_size() { return emulate::current->n_blocks; }
inline unsigned char* shared_memory() { return emulate::current->shared; }
inline void sync_threads() { emulate::wait_at(emulate::current->barrier); }

namespace emulate {
inline Warp& warp() { return current->warps[static_cast<size_t>(thread_index() / kWarp)]; }
inline int lane() { return thread_index() % kWarp; }
// Brings `mine` to the gate and gives everybody's slots of this round. The other half of the slots is free again by then:
// nobody is at the next round before all have left the one before this.
template <class T>
unsigned char (*exchange(const T& mine, const std::function<void()>* last = nullptr))[kSlotBytes] {
  static_assert(sizeof(T) <= kSlotBytes);
  Warp& w = warp();
  auto* slots = w.slots[w.gate.round % 2];
  std::memcpy(slots[lane()], &mine, sizeof mine);
  wait_at(w.gate, last);
  return slots;
}
template <class T>
T from_lane(unsigned char (*slots)[kSlotBytes], int lane) {
  T v;
  std::memcpy(&v, slots[lane], sizeof v);
  return v;
}
}  // namespace emulate

inline void sync_warp() { emulate::wait_at(emulate::warp().gate); }
template <class T>
T shuffle_xor(T v, int mask) {
  const int from = emulate::lane() ^ mask;
  return emulate::from_lane<T>(emulate::exchange(v), from);
}
inline int made_anew(int v) { return v; }
inline uint32_t warp_uniform(uint32_t v) {
  check(emulate::from_lane<uint32_t>(emulate::exchange(v), 0) == v, ErrorCode::internal, "a value differs between lanes");
  return v;
}
inline bool warp_any(bool v) {
  auto* slots = emulate::exchange(v);
  bool any = false;
  for (int i = 0; i < emulate::warp().gate.expected; ++i) any |= emulate::from_lane<bool>(slots, i);
  return any;
}

// ---- arithmetic ------------------------------------------------------------------------------------------------------
inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline float square_root(float x) { return std::sqrt(x); }
inline float inverse_square_root(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(to_bf16(low).bits) | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}
inline float as_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline uint32_t as_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float negative_infinity() { return -std::numeric_limits<float>::infinity(); }

// ---- memory ----------------------------------------------------------------------------------------------------------
struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};
template <class T>
T load_words(const void* p) {
  check(reinterpret_cast<uintptr_t>(p) % alignof(T) == 0, ErrorCode::internal, "emulated load from an unaligned address");
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void store_words(void* p, const T& v) {
  check(reinterpret_cast<uintptr_t>(p) % alignof(T) == 0, ErrorCode::internal, "emulated store to an unaligned address");
  std::memcpy(p, &v, sizeof v);
}

// Fibers do not interrupt one another, but a sanitizer takes them for threads.
inline uint32_t add_shared(uint32_t* to, uint32_t v) { return std::atomic_ref(*to).fetch_add(v, std::memory_order_relaxed); }
inline void add_shared(uint64_t* to, uint64_t v) { std::atomic_ref(*to).fetch_add(v, std::memory_order_relaxed); }

namespace emulate {
inline void run_copy(const PendingCopy& p) {
  if (p.from) std::memcpy(p.to, p.from, p.bytes);
  else std::memset(p.to, 0, p.bytes);
}
inline void begin_copy(const PendingCopy& p) {
  check(reinterpret_cast<uintptr_t>(p.to) % p.bytes == 0 && reinterpret_cast<uintptr_t>(p.from) % p.bytes == 0, ErrorCode::internal,
        "emulated cp.async with an unaligned address");
  if (options.unfair) run_copy(p);
  else current->running->copies.open.push_back(p);
}
}  // namespace emulate

// 16 or 4 bytes from global to shared memory, or zeros where `from` is not to be read.
inline void copy_async(void* to, const void* from, bool read) { emulate::begin_copy({to, read ? from : nullptr, 16}); }
inline void copy_async_word(void* to, const void* from, bool read) { emulate::begin_copy({to, read ? from : nullptr, 4}); }
inline void copy_commit() {
  auto& c = emulate::current->running->copies;
  c.committed.push_back(std::move(c.open));
  c.open.clear();
}
template <int kKeep>
void copy_wait() {
  auto& c = emulate::current->running->copies.committed;
  while (c.size() > kKeep) {
    for (const emulate::PendingCopy& p : c.front()) emulate::run_copy(p);
    c.erase(c.begin());
  }
}

// ---- products of a warp ----------------------------------------------------------------------------------------------
// Four 8x8 matrices of 16-bit elements; lane i names row i%8 of matrix i/8. Lane i receives of matrix j, in r[j], elements
// 2(i%4), 2(i%4)+1 of row i/4 (transposed: of column i/4).
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  auto* slots = emulate::exchange(row);
  const int lane = emulate::lane();
  for (int j = 0; j < 4; ++j) {
    std::memcpy(&r[j], static_cast<const char*>(emulate::from_lane<const void*>(slots, j * 8 + lane / 4)) + lane % 4 * 4, 4);
  }
  sync_warp();  // rows may be overwritten after this, not before
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  auto* slots = emulate::exchange(row);
  const int lane = emulate::lane();
  for (int j = 0; j < 4; ++j) {
    uint16_t pair[2];
    for (int h = 0; h < 2; ++h) {
      const auto* from = static_cast<const char*>(emulate::from_lane<const void*>(slots, j * 8 + lane % 4 * 2 + h));
      std::memcpy(&pair[h], from + lane / 4 * 2, 2);
    }
    r[j] = static_cast<uint32_t>(pair[0]) | static_cast<uint32_t>(pair[1]) << 16;
  }
  sync_warp();
}
// d[16,8] += a[16,16] b[16,8], fragments of mma.m16n8k16.row.col
inline void warp_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Brought {
    uint32_t a[4], b[2];
    float* d;
  };
  const Brought mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, d};
  emulate::Warp& w = emulate::warp();
  auto* slots = w.slots[w.gate.round % 2];
  const std::function<void()> last = [slots] {
    float m[16][16], n[16][8], sums[16][8] = {};
    Brought all[32];
    const auto half = [](uint32_t u, int h) { return to_float(bf16{static_cast<uint16_t>(u >> (16 * h))}); };
    for (int i = 0; i < 32; ++i) {
      all[i] = emulate::from_lane<Brought>(slots, i);
      const int g = i / 4, t = i % 4 * 2;
      for (int h = 0; h < 2; ++h) {
        m[g][t + h] = half(all[i].a[0], h), m[g + 8][t + h] = half(all[i].a[1], h);
        m[g][t + 8 + h] = half(all[i].a[2], h), m[g + 8][t + 8 + h] = half(all[i].a[3], h);
        n[t + h][g] = half(all[i].b[0], h), n[t + 8 + h][g] = half(all[i].b[1], h);
      }
    }
    for (int r = 0; r < 16; ++r) {
      for (int k = 0; k < 16; ++k) {
        for (int c = 0; c < 8; ++c) sums[r][c] += m[r][k] * n[k][c];
      }
    }
    for (int i = 0; i < 32; ++i) {
      for (int f = 0; f < 4; ++f) all[i].d[f] += sums[i / 4 + f / 2 * 8][i % 4 * 2 + f % 2];
    }
  };
  emulate::exchange(mine, &last);
}

// ---- products of a warpgroup -----------------------------------------------------------------------------------------
inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emulate::current->shared);
}
// Barriers that threads arrive at and wait for at different places. A phase ends when `expected` have arrived; wait() returns once
// the phase of that parity (0 for the first) has ended.
using SharedBarrier = uint64_t;
inline void barrier_init(SharedBarrier* b, int expected) { emulate::current->barriers[shared_address(b)] = emulate::Gate{expected}; }
inline void barrier_arrive(SharedBarrier* b) {
  emulate::arrive_at(emulate::current->barriers.at(shared_address(b)));
}
inline void barrier_wait(SharedBarrier* b, int parity) {
  emulate::Gate& gate = emulate::current->barriers.at(shared_address(b));
  if (gate.round % 2 == static_cast<uint64_t>(parity)) emulate::pause_at(gate);
  sanitizer::acquire(&gate.marks[parity]);
}
// Arrives, and lets the phase wait for this many bytes of boxes too.
inline void barrier_expect(SharedBarrier* b, int bytes) {
  emulate::Gate& gate = emulate::current->barriers.at(shared_address(b));
  gate.bytes += bytes;
  emulate::arrive_at(gate);
}
// Boxes of `rows` rows and 64 columns of a bf16 tensor, zeros where it ends. Made by the host, passed as RLHI_GRID_CONSTANT const.
struct TensorMap {
  Tensor tensor;
  int rows;
};
inline TensorMap tensor_map(const Tensor& t, int rows) { return {t, rows}; }
// Begins copying the box at (column, row), in the swizzle of a product's operand; b's phase waits for its bytes.
inline void copy_box(void* to, const TensorMap& map, int column, int row, SharedBarrier* b) {
  const Tensor& t = map.tensor;
  emulate::begin_box({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(t.data), t.row_stride * 2, t.rows, t.cols * 2, row, column * 2,
                      map.rows, &emulate::current->barriers.at(shared_address(b))});
}
// The calling warpgroup's threads have this many registers from here on.
template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}
inline size_t largest_shared_memory() { return emulate::options.shared_bytes; }

inline void group_fence() {}
inline void shared_fence() {}
template <int kFragments>
void group_fence(float (&)[kFragments][4]) {}
inline void group_commit() {
  auto& p = emulate::current->running->products;
  p.committed.push_back(std::move(p.open));
  p.open.clear();
}
template <int kKeep>
void group_wait() {
  const int group = thread_index() / 128;
  const std::function<void()> last = [group] { emulate::run_products(group, kKeep); };
  emulate::wait_at(emulate::current->named[static_cast<size_t>(group)], &last);
}
// d[64, n] (+)= a[64,16] b[n,16]^T with n = 8 kFragments; b_transposed: b is stored [16,n].
template <bool kTransposedB, int kFragments>
void group_product(float (&d)[kFragments][4], uint64_t a, uint64_t b, bool accumulate) {
  emulate::current->running->products.open.push_back({&d[0][0], false, {}, a, b, 8 * kFragments, kTransposedB, accumulate});
}
template <bool kTransposedB, int kFragments>
void group_product(float (&d)[kFragments][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  emulate::current->running->products.open.push_back(
      {&d[0][0], true, {a[0], a[1], a[2], a[3]}, 0, b, 8 * kFragments, kTransposedB, accumulate});
}

// ---- launches --------------------------------------------------------------------------------------------------------
template <class... Parameters, class... Arguments>
void launch(const Launch& at, int64_t blocks, int threads, size_t shared_bytes, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (blocks <= 0) return;
  check(blocks < (int64_t{1} << 31), ErrorCode::invalid_argument, blocks, " blocks of a launch are too many");
  if (at.recorder && !at.recorder->takes(kernel, blocks, threads, shared_bytes, static_cast<Parameters>(arguments)...)) return;
  const std::tuple<Parameters...> bound(arguments...);
  emulate::enqueue([=] { emulate::run_grid(static_cast<int>(blocks), threads, shared_bytes, [&] { std::apply(kernel, bound); }); });
}

}  // namespace rlhi::ops::cuda
