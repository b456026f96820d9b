// kernels/device.cuh on a GPU. PTX instructions are named as the PTX ISA names them.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"
#include "ops/cuda/cuda_error.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/recorder.h"

#define RLHI_DEVICE __device__ __forceinline__
#define RLHI_KERNEL(threads, blocks_per_multiprocessor) __global__ __launch_bounds__(threads, blocks_per_multiprocessor)
#define RLHI_GRID_CONSTANT __grid_constant__
#define RLHI_UNROLL _Pragma("unroll")
#define RLHI_PRAGMA(text) _Pragma(#text)
#define RLHI_UNROLL_BY(n) RLHI_PRAGMA(unroll n)

// wgmma exists in sm_90a alone. RLHI_GROUP_PRODUCTS: kernels use it whatever their template argument says;
// RLHI_HAS_GROUP_PRODUCTS: it can be compiled.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RLHI_GROUP_PRODUCTS 1
#else
#define RLHI_GROUP_PRODUCTS 0
#endif
#define RLHI_HAS_GROUP_PRODUCTS RLHI_GROUP_PRODUCTS

namespace rlhi::ops::cuda {

RLHI_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RLHI_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
RLHI_DEVICE int grid_size() { return static_cast<int>(gridDim.x); }
RLHI_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
}
RLHI_DEVICE void sync_threads() { __syncthreads(); }
RLHI_DEVICE void sync_warp() { __syncwarp(); }
template <class T>
RLHI_DEVICE T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}
// A value that is the same in all lanes, told to the compiler.
RLHI_DEVICE uint32_t warp_uniform(uint32_t v) { return __shfl_sync(0xffffffffu, v, 0); }
// The same number, kept from the compiler: what follows from it is worked out where it is used, not in registers from before a loop.
RLHI_DEVICE int made_anew(int v) {
  asm volatile("" : "+r"(v));
  return v;
}
RLHI_DEVICE bool warp_any(bool v) { return __any_sync(0xffffffffu, v) != 0; }

// ---- arithmetic ------------------------------------------------------------------------------------------------------
RLHI_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RLHI_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RLHI_DEVICE float square_root(float x) { return __fsqrt_rn(x); }
// One step of Newton's brings the hardware's estimate to within a rounding or two.
RLHI_DEVICE float inverse_square_root(float x) {
  const float r = rsqrtf(x);
  return r * __fmaf_rn(-0.5f * x * r, r, 1.5f);
}
RLHI_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
// The upper half of the product.
RLHI_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
RLHI_DEVICE float as_float(uint32_t u) { return __uint_as_float(u); }
RLHI_DEVICE uint32_t as_bits(float f) { return __float_as_uint(f); }
RLHI_DEVICE float negative_infinity() { return __uint_as_float(0xff800000u); }

// ---- memory ----------------------------------------------------------------------------------------------------------
struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};
template <class T>
RLHI_DEVICE T load_words(const void* p) {
  return *static_cast<const T*>(p);
}
template <class T>
RLHI_DEVICE void store_words(void* p, const T& v) {
  *static_cast<T*>(p) = v;
}
// Adds to a counter in shared memory and gives what was there.
RLHI_DEVICE uint32_t add_shared(uint32_t* to, uint32_t v) { return atomicAdd(to, v); }
RLHI_DEVICE void add_shared(uint64_t* to, uint64_t v) { atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(v)); }
RLHI_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
RLHI_DEVICE void copy_async(void* to, const void* from, bool read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(read ? 16 : 0) : "memory");
}
RLHI_DEVICE void copy_async_word(void* to, const void* from, bool read) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(read ? 4 : 0) : "memory");
}
RLHI_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kKeep>
RLHI_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kKeep) : "memory");
}

// ---- products of a warp ----------------------------------------------------------------------------------------------
RLHI_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
RLHI_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
RLHI_DEVICE void warp_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- products of a warpgroup -----------------------------------------------------------------------------------------
// Barriers that threads arrive at and wait for at different places (mbarrier).
using SharedBarrier = uint64_t;
RLHI_DEVICE void barrier_init(SharedBarrier* b, int expected) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(expected) : "memory");
}
RLHI_DEVICE void barrier_arrive(SharedBarrier* b) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(shared_address(b)) : "memory");
}
RLHI_DEVICE void barrier_wait(SharedBarrier* b, int parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define RLHI_TEST_WAIT "mbarrier.try_wait.parity.shared.b64"
#else
#define RLHI_TEST_WAIT "mbarrier.test_wait.parity.shared.b64"
#endif
  asm volatile("{\n.reg .pred done;\nagain_%=:\n" RLHI_TEST_WAIT " done, [%0], %1;\n@!done bra again_%=;\n}" ::"r"(shared_address(b)),
               "r"(parity)
               : "memory");
#undef RLHI_TEST_WAIT
}
// Boxes of `rows` rows and 64 columns of a bf16 tensor, zeros where it ends. Made by the host, passed as RLHI_GRID_CONSTANT const.
struct TensorMap {
  CUtensorMap map;
};
inline TensorMap tensor_map(const Tensor& t, int rows) {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result) == cudaSuccess &&
              result == cudaDriverEntryPointSuccess,
          ErrorCode::unsupported, "this driver has no tensor maps");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  TensorMap m;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(t.cols), static_cast<cuuint64_t>(t.rows)}, stride = static_cast<cuuint64_t>(t.row_stride) * 2;
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(rows)}, step[2] = {1, 1};
  const CUresult status = encode(&m.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, t.data, sizes, &stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(status == CUDA_SUCCESS, ErrorCode::internal, "tensor map of ", t.rows, " rows and ", t.cols, " columns: error ", static_cast<int>(status));
  return m;
}
// Whether this GPU's code of the kernel was compiled for so many threads (for GPUs without wgmma it is a stub for fewer), which together
// begin with as many registers as they deal anew: for one that is not there a thread would wait for ever.
template <class... Parameters>
bool compiled_for(void (*kernel)(Parameters...), int threads, int registers) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.maxThreadsPerBlock >= threads && attributes.numRegs * threads >= registers;
}
// Of the calling thread's device. Products of few rows ask each time, so it is kept.
inline size_t largest_shared_memory() {
  static thread_local int known_device = -1, bytes = 0;
  int device = 0;
  cudaGetDevice(&device);
  if (device != known_device && cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess) known_device = device;
  return static_cast<size_t>(bytes);
}

#if RLHI_GROUP_PRODUCTS
// Arrives, and lets the phase wait for this many bytes of boxes too.
RLHI_DEVICE void barrier_expect(SharedBarrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// Begins copying the box at (column, row), in the swizzle of a product's operand; b's phase waits for its bytes.
RLHI_DEVICE void copy_box(void* to, const TensorMap& map, int column, int row, SharedBarrier* b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
               "l"(&map.map), "r"(column), "r"(row), "r"(shared_address(b))
               : "memory");
}
// The calling warpgroup's threads have this many registers from here on.
template <int kRegisters>
RLHI_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
RLHI_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
// Registers written before become visible to the products after this.
RLHI_DEVICE void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Shared memory written by ordinary stores and copies becomes visible to products, after the barrier that follows.
RLHI_DEVICE void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Keeps the compiler from moving uses of accumulators over a wait.
template <int kFragments>
RLHI_DEVICE void group_fence(float (&d)[kFragments][4]) {
  RLHI_UNROLL
  for (int i = 0; i < kFragments; ++i) {
    RLHI_UNROLL
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(d[i][j])::"memory");
  }
}
RLHI_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kKeep>
RLHI_DEVICE void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kKeep) : "memory");
}

#define RLHI_D4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define RLHI_D16(i) RLHI_D4(i), RLHI_D4(i + 1), RLHI_D4(i + 2), RLHI_D4(i + 3)
#define RLHI_N32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define RLHI_N64                                                                                                        \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30," \
  "%31}"
#define RLHI_N128                                                                                                            \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"  \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61," \
  "%62,%63}"

template <bool kTransposedB, int kFragments>
RLHI_DEVICE void group_product(float (&d)[kFragments][4], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kFragments == 16 || kFragments == 8 || kFragments == 4);
  if constexpr (kFragments == 16) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " RLHI_N128
                 ", %64, %65, p, 1, 1, 0, %67;\n}"
                 : RLHI_D16(0), RLHI_D16(4), RLHI_D16(8), RLHI_D16(12)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
  } else if constexpr (kFragments == 8) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RLHI_N64
                 ", %32, %33, p, 1, 1, 0, %35;\n}"
                 : RLHI_D16(0), RLHI_D16(4)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
  } else {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " RLHI_N32
                 ", %16, %17, p, 1, 1, 0, %19;\n}"
                 : RLHI_D16(0)
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
  }
}
template <bool kTransposedB, int kFragments>
RLHI_DEVICE void group_product(float (&d)[kFragments][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(kFragments == 8 || kFragments == 4);
  if constexpr (kFragments == 8) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " RLHI_N64
                 ", {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}"
                 : RLHI_D16(0), RLHI_D16(4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
  } else {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " RLHI_N32
                 ", {%16,%17,%18,%19}, %20, p, 1, 1, %22;\n}"
                 : RLHI_D16(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
  }
}
#undef RLHI_D4
#undef RLHI_D16
#undef RLHI_N32
#undef RLHI_N64
#undef RLHI_N128
#endif  // RLHI_GROUP_PRODUCTS

// ---- launches --------------------------------------------------------------------------------------------------------
// A kernel has to be allowed more than 48 KiB once a device; asking at every launch would cost as much as the launch.
inline void allow_shared_memory(const Launch& at, const void* kernel, size_t bytes) {
  static thread_local std::map<std::pair<const void*, int>, size_t> allowed;
  size_t& most = allowed[{kernel, at.device}];
  if (bytes <= most) return;
  must_succeed(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory of a kernel");
  most = bytes;
}
template <class... Parameters, class... Arguments>
void launch(const Launch& at, int64_t blocks, int threads, size_t shared_bytes, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (blocks <= 0) return;
  check(blocks < (int64_t{1} << 31), ErrorCode::invalid_argument, blocks, " blocks of a launch are too many");
  if (at.recorder && !at.recorder->takes(kernel, blocks, threads, shared_bytes, static_cast<Parameters>(arguments)...)) return;
  if (shared_bytes > 48 << 10) allow_shared_memory(at, reinterpret_cast<const void*>(kernel), shared_bytes);
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes, at.stream>>>(static_cast<Parameters>(arguments)...);
  must_succeed(cudaGetLastError(), "launch of a kernel");
}

}  // namespace rlhi::ops::cuda
