// Measuring kernels: device memory, medians of event times, one line a measurement.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"

namespace bench {

using rlhi::bf16;
using rlhi::DType;
using rlhi::Tensor;

inline void check_cuda(cudaError_t status, const char* what) {
  rlhi::check(status == cudaSuccess, rlhi::ErrorCode::internal, what, ": ", cudaGetErrorString(status));
}

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) { check_cuda(cudaMalloc(&data_, std::max<size_t>(bytes, 1)), "cudaMalloc"); }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* get() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::vector<T> download() const {
    std::vector<T> host(bytes_ / sizeof(T));
    check_cuda(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return host;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};
template <class T>
struct Uploaded : DeviceMemory {
  explicit Uploaded(const std::vector<T>& host) : DeviceMemory(host.size() * sizeof(T)) {
    check_cuda(cudaMemcpy(get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
};

// A tensor of normal random numbers (one million of them, repeated), or of a pattern of NaN where `seed` is 0.
struct DeviceTensor : DeviceMemory {
  DeviceTensor(int64_t rows, int64_t cols, DType type, uint32_t seed)
      : DeviceMemory(static_cast<size_t>(rows * cols * rlhi::dtype_size(type))), view(get(), type, rows, cols) {
    const auto bytes = static_cast<size_t>(view.bytes());
    if (seed == 0) {
      check_cuda(cudaMemset(get(), 0xff, bytes), "cudaMemset");
      return;
    }
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> f32(1 << 20);
    std::vector<bf16> narrow(f32.size());
    for (size_t i = 0; i < f32.size(); ++i) f32[i] = normal(random), narrow[i] = rlhi::to_bf16(f32[i]);
    const char* from = type == DType::f32 ? reinterpret_cast<const char*>(f32.data()) : reinterpret_cast<const char*>(narrow.data());
    const size_t piece = f32.size() * static_cast<size_t>(rlhi::dtype_size(type));
    for (size_t at = 0; at < bytes; at += piece) {
      check_cuda(cudaMemcpy(as<char>() + at, from, std::min(piece, bytes - at), cudaMemcpyHostToDevice), "upload");
    }
  }
  std::vector<float> floats() const {
    if (view.dtype == DType::f32) return download<float>();
    std::vector<float> out;
    for (const bf16 b : download<bf16>()) out.push_back(rlhi::to_float(b));
    return out;
  }
  Tensor view;
};

// Median seconds of one f(), over runs that take about `budget` seconds together.
inline double seconds_of(const std::function<void()>& f, double budget = 0.15) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "event");
  check_cuda(cudaEventCreate(&end), "event");
  const auto once = [&] {
    check_cuda(cudaEventRecord(begin), "event");
    f();
    check_cuda(cudaEventRecord(end), "event");
    check_cuda(cudaEventSynchronize(end), "a kernel");
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, begin, end), "event");
    return static_cast<double>(ms) * 1e-3;
  };
  once();
  const double first = once();
  const int n = static_cast<int>(std::clamp(budget / std::max(first, 1e-6), 5.0, 200.0));
  std::vector<double> times;
  for (int i = 0; i < n; ++i) times.push_back(once());
  std::nth_element(times.begin(), times.begin() + n / 2, times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return times[static_cast<size_t>(n / 2)];
}

// ||a - b|| / ||b||; NaN counts as infinitely far.
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    error += d * d, size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return error == error ? std::sqrt(error / size) : INFINITY;
}

}  // namespace bench
