// What this processor, its operating system and this process's limits allow.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/system.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rlhi::ops {
namespace {

#if defined(__x86_64__) || defined(__i386__)
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};
Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  if (__get_cpuid_max(leaf & 0x80000000u, nullptr) >= leaf) __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
  return r;
}
bool bit(unsigned word, int n) { return (word >> n & 1u) != 0; }

uint64_t saved_registers() {  // xgetbv(0): which registers the operating system saves
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

void read_processor(CpuFeatures& f) {
  const Registers one = cpuid(1), seven = cpuid(7), seven1 = cpuid(7, 1);
  const bool xsave = bit(one.c, 27);
  const uint64_t saved = xsave ? saved_registers() : 0;
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
  f.avx2 = ymm && bit(seven.b, 5);
  f.fma = ymm && bit(one.c, 12);
  f.f16c = ymm && bit(one.c, 29);
  f.avx512f = zmm && bit(seven.b, 16);
  f.avx512dq = zmm && bit(seven.b, 17);
  f.avx512bw = zmm && bit(seven.b, 30);
  f.avx512vl = zmm && bit(seven.b, 31);
  f.avx512_bf16 = zmm && bit(seven1.a, 5);
  f.avx512_fp16 = zmm && bit(seven.d, 23);
  f.amx_tile = tiles && bit(seven.d, 24);
  f.amx_bf16 = tiles && bit(seven.d, 22);
  char name[49] = {};
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i);
    std::memcpy(name + 16 * i, &r, 16);
  }
  f.model_name = name;
  while (!f.model_name.empty() && f.model_name.back() == ' ') f.model_name.pop_back();
  f.model_name.erase(0, f.model_name.find_first_not_of(' ') == std::string::npos ? 0 : f.model_name.find_first_not_of(' '));
}
#else
void read_processor(CpuFeatures&) {}
#endif

// CPUs' worth of time that the control group and its ancestors allow, rounded up; 0 where there is no limit.
int cgroup_limit() {
  int least = 0;
  for_each_control_group("cpu", [&](const std::string& folder, bool version2) {
    double quota = -1, period = 0;
    if (version2) {
      std::string first;
      std::ifstream file(folder + "/cpu.max");
      if (!(file >> first >> period) || first == "max") return;
      quota = std::atof(first.c_str());
    } else {
      std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
      if (!(quota_file >> quota && period_file >> period)) return;
    }
    if (quota <= 0 || period <= 0) return;
    const int limit = static_cast<int>((quota + period - 1) / period);
    least = least == 0 ? limit : std::min(least, limit);
  });
  return least;
}

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) cores = CPU_COUNT(&set);
#endif
  const int limit = cgroup_limit();
  if (limit > 0 && limit < cores) cores = limit;
  return cores > 0 ? cores : 1;
}

CpuFeatures read_features() {
  CpuFeatures f;
  read_processor(f);
  f.logical_cores = usable_cores();
  if (f.model_name.empty()) f.model_name = "unknown processor";
  return f;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = read_features();
  return features;
}

// Linux gives a process the tile registers only when it asks for them.
bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
#else
  return false;
#endif
}

std::vector<CpuIsa> available_isas() {
  const CpuFeatures& f = cpu_features();
  std::vector<CpuIsa> isas{CpuIsa::portable, CpuIsa::portable_tiles};
  if (avx2_kernels() && f.avx2 && f.fma && f.f16c) isas.push_back(CpuIsa::avx2);
  const bool avx512 = avx512_kernels() && f.avx2 && f.fma && f.f16c && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq;
  if (avx512) isas.push_back(CpuIsa::avx512);
  if (avx512 && avx512_bf16_tiles() && f.avx512_bf16) isas.push_back(CpuIsa::avx512_bf16);
  if (avx512 && amx_tiles() && f.avx512_bf16 && f.amx_tile && f.amx_bf16 && may_use_tiles()) isas.push_back(CpuIsa::amx);
  return isas;
}

const char* isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable: return "portable";
    case CpuIsa::portable_tiles: return "portable-tiles";
    case CpuIsa::avx2: return "avx2";
    case CpuIsa::avx512: return "avx512";
    case CpuIsa::avx512_bf16: return "avx512-bf16";
    case CpuIsa::amx: return "amx";
  }
  fail(ErrorCode::internal, "unknown instruction set ", static_cast<int>(isa));
}

CpuIsa default_isa() {
  const std::vector<CpuIsa> isas = available_isas();
  const char* wanted = std::getenv("RLHI_CPU_ISA");
  if (!wanted || !*wanted) return isas.back();
  std::string names;
  for (const CpuIsa isa : isas) {
    if (std::strcmp(wanted, isa_name(isa)) == 0) return isa;
    names += names.empty() ? isa_name(isa) : concat(", ", isa_name(isa));
  }
  fail(ErrorCode::invalid_argument, "RLHI_CPU_ISA is \"", wanted, "\", but this machine can run: ", names);
}

}  // namespace rlhi::ops
