// Inside the CUDA backend's host half: the state behind ops::Backend, and the operations by file.
//
// All work of a backend goes to one stream, in the order of the calls, and nothing waits for it but what returns numbers to
// the host: download, choose_tokens and wait.
#pragma once
#include <array>

#include "ops/cuda/attention_lists.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/host_arrays.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/repeated_work.h"
#include "ops/cuda/runtime.h"
#include "ops/ops.h"

namespace rlhi::ops::cuda {

struct CudaBackend {
  explicit CudaBackend(int device_index, const runtime::DeviceFacts& facts);

  int device;
  runtime::OwnStream own;
  Recorder recorder;
  RepeatedWork repeated;
  Launch launch;
  Gemm gemm;
  HostArrays arrays;
  // One a purpose: an operation that calls another must not lose its own.
  DeviceScratch operand_a, operand_b, wide_result, bias;       // gemm, where types differ
  DeviceScratch gate_up;                                       // gemm, what SwiGLU is made of
  DeviceScratch logits, statistics, gradient;                  // linear_logprob
  DeviceScratch kernel;                                        // a kernel's own
  AttentionLists lists;
  std::array<runtime::OwnEvent, kMarks> marks;                 // mark m: event m % kMarks
  uint64_t marked = 0;
};

// The backend, with its device made the calling thread's.
CudaBackend& enter(Backend* backend);
// The same for what cannot be part of repeated work: it is done at once, or waited for.
CudaBackend& enter_alone(Backend* backend);

const Table& table();            // of every CUDA backend

// ---- the operations that are more than a launch, by file ----
// products.cc
void gemm(Backend*, const GemmArgs&);
void multiply(CudaBackend& cuda, const GemmArgs&, int64_t aligned_cols);  // see Gemm::multiply
// attention.cc
void attention(Backend*, const AttentionArgs&);
void attention_backward(Backend*, const AttentionBackwardArgs&);
// linear_logprob.cc
void linear_logprob(Backend*, const LinearLogprobArgs&);
void linear_logprob_backward(Backend*, const LinearLogprobBackwardArgs&);

}  // namespace rlhi::ops::cuda
