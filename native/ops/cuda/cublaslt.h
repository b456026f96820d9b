// cuBLASLt's C interface, as much of it as gemm.cc uses, declared here so that neither a build nor a machine without a GPU
// needs NVIDIA's headers or library. Names, values and layouts are those of cublasLt.h (CUDA 12 and 13):
// https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda::lt {

enum Status : int { kSuccess = 0 };
enum DataType : int { kF32 = 0, kBf16 = 14 };      // cudaDataType
enum ComputeType : int { kCompute32F = 68 };       // f32 products and sums of f32 operands: never TF32, which has its own value
enum Transpose : int32_t { kNone = 0, kTransposed = 1 };
enum DescAttribute : int { kTransA = 3, kTransB = 4, kEpilogue = 7, kBiasPointer = 8, kBiasType = 26 };
enum Epilogue : uint32_t { kEpilogueDefault = 1, kEpilogueBias = 4 };
enum PreferenceAttribute : int { kMaxWorkspace = 1, kReductionMask = 3, kMinAlignmentA = 5, kMinAlignmentB = 6, kMinAlignmentC = 7,
                                 kMinAlignmentD = 8 };
enum Reduction : uint32_t { kReduceInOrder = 2 };  // partial sums in f32 in the workspace, added by a kernel of their own
enum AlgoAttribute : int { kAlgoId = 0, kAlgoSplitK = 2 };

struct Context;                                    // behind cublasLtHandle_t
struct MatrixLayout;                               // behind cublasLtMatrixLayout_t; column-major
struct MatmulDesc;
struct Preference;
struct Algo {
  uint64_t data[8];
};
struct HeuristicResult {
  Algo algo;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

// The functions, under their names without the prefix.
struct Library {
  std::string path;                                // where it was found
  size_t (*GetVersion)() = nullptr;
  const char* (*GetStatusName)(int) = nullptr;
  int (*Create)(Context**) = nullptr;
  int (*Destroy)(Context*) = nullptr;
  int (*MatrixLayoutCreate)(MatrixLayout**, int type, uint64_t rows, uint64_t cols, int64_t ld) = nullptr;
  int (*MatrixLayoutDestroy)(MatrixLayout*) = nullptr;
  int (*MatmulDescCreate)(MatmulDesc**, int compute_type, int scale_type) = nullptr;
  int (*MatmulDescDestroy)(MatmulDesc*) = nullptr;
  int (*MatmulDescSetAttribute)(MatmulDesc*, int attribute, const void* value, size_t bytes) = nullptr;
  int (*MatmulPreferenceCreate)(Preference**) = nullptr;
  int (*MatmulPreferenceDestroy)(Preference*) = nullptr;
  int (*MatmulPreferenceSetAttribute)(Preference*, int attribute, const void* value, size_t bytes) = nullptr;
  int (*MatmulAlgoGetHeuristic)(Context*, MatmulDesc*, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c, MatrixLayout* d, Preference*,
                                int requested, HeuristicResult*, int* found) = nullptr;
  int (*MatmulAlgoCheck)(Context*, MatmulDesc*, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c, MatrixLayout* d, const Algo*,
                         HeuristicResult*) = nullptr;
  int (*MatmulAlgoConfigGetAttribute)(const Algo*, int attribute, void* value, size_t bytes, size_t* written) = nullptr;
  int (*Matmul)(Context*, MatmulDesc*, const void* alpha, const void* a, MatrixLayout*, const void* b, MatrixLayout*, const void* beta,
                const void* c, MatrixLayout*, void* d, MatrixLayout*, const Algo*, void* workspace, size_t workspace_bytes,
                runtime::Stream) = nullptr;
};

// Opened once in a process and kept. RLHI_CUBLASLT names the file; else it is looked for in the dynamic loader's own places,
// CUDA_HOME, CUDA_PATH, /usr/local/cuda, and the folders where Python environments keep the nvidia-cublas wheel.
// Throws unsupported with all places that were tried.
const Library& library();

}  // namespace rlhi::ops::cuda::lt
