// The CPU backend: a thread pool, scratch memory and the table of the best instruction set this machine has.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace rlhi::ops {

// What a table was compiled for; later ones are faster. Those with tiles (portable_tiles, avx512_bf16, amx) multiply bf16 by bf16;
// the others widen bf16 to f32. portable_tiles is the tiles of AMX in plain C++, for tests.
enum class CpuIsa { portable, portable_tiles, avx2, avx512, avx512_bf16, amx };

struct CpuFeatures {  // read once from cpuid and xgetbv (the operating system must save the registers too)
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false, avx512_bf16 = false, avx512_fp16 = false;
  bool amx_tile = false, amx_bf16 = false;
  std::string model_name;
  int logical_cores = 1;  // this process may use (affinity, cgroup quota rounded up)
};
const CpuFeatures& cpu_features();

std::vector<CpuIsa> available_isas();      // those that can run here, slowest first
const char* isa_name(CpuIsa isa);          // "portable", "portable-tiles", "avx2", "avx512", "avx512-bf16", "amx"
// The last available one, or the one that RLHI_CPU_ISA names in the environment; throws where that one cannot run here.
CpuIsa default_isa();

bool keeps_logits(CpuIsa isa, DType head);  // Table::keeps_logits of its backends

struct CpuBackendOptions {
  int threads = 0;                         // 0: all logical cores
  CpuIsa isa = default_isa();
};

// Owns threads and scratch. Calls into one backend come from one thread at a time; two backends are independent.
class CpuBackend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options = {});
  ~CpuBackend();
  CpuBackend(const CpuBackend&) = delete;
  CpuBackend& operator=(const CpuBackend&) = delete;

  Backend* handle() const;
  const Table& table() const;
  int threads() const;

  // Until the trace is written (Chrome's format), every operation and what each thread did for it is noted, from the first call on.
  void start_trace();
  void write_trace(const std::string& path);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rlhi::ops
