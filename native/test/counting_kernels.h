// Kernels that compute nothing and count what they would have to do, so that the real drivers can be asked how they share work out
// among more threads than there are, at sizes that nobody could compute here: the memory they are given is never written.
#pragma once
#include "ops/cpu/kernels.h"

namespace rlhi::test {

// Cycles of one core, by a simple account: products at the rate of the instructions they are made by, all else by the bytes it reads
// and writes.
constexpr double kBytesACycle = 8;

double counted_cycles();  // of all kernels so far

enum class CountedPath { avx2, avx512, tiles };
const char* path_name(CountedPath path);
const ops::Kernels& counting_kernels(CountedPath path);
const ops::TileKernels* counting_tiles(CountedPath path);  // nullptr where the path has none

}  // namespace rlhi::test
