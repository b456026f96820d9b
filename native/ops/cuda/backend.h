// Inside the CUDA backend's host half: the state behind ops::Backend, and the operations by file.
//
// All work of a backend goes to one stream, in the order of the calls (copies of moments that lie in the host's memory go to two more,
// which that stream waits for), and nothing waits for it but what returns numbers to
// the host: download, choose_tokens and wait.
#pragma once
#include <array>
#include <memory>

#include "ops/cuda/attention_lists.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/host_arrays.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/repeated_work.h"
#include "ops/cuda/runtime.h"
#include "ops/ops.h"

namespace rlhi::ops::cuda {

// What AdamW's moments in the host's memory pass through: streams beside the compute stream, and for each slot of device memory how far its
// piece is.
struct MomentTraffic {
  struct Slot {
    runtime::OwnEvent arrived, computed, left;
  };
  runtime::OwnStream in{runtime::Work::copies}, out{runtime::Work::copies};
  runtime::OwnEvent begun;                                     // an update
  std::array<Slot, kMomentSlots> slots;
  DeviceScratch staging;
};

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
  std::unique_ptr<MomentTraffic> moment_traffic;               // from the first update that needs it
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
// optimizer.cc
void update(Backend*, const AdamWArgs&);
void gradient_squares(Backend*, Tensor x, double* sum);
void clip(Backend*, const double* squares, int64_t n, double max_norm, float* factor);

}  // namespace rlhi::ops::cuda
