// What the measurement program's parts share: medians, random matrices on the device, and one line of text and of JSON a result.
#pragma once
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/random.h"
#include "ops/device_buffer.h"
#include "model/weights.h"
#include "ops/device.h"

namespace rlhi::bench {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Results go to stdout as text and, a JSON object a line, to a file.
class Report {
 public:
  explicit Report(const std::string& path) : file_(path.empty() ? nullptr : std::fopen(path.c_str(), "a")) {}
  ~Report() {
    if (file_) std::fclose(file_);
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void add(const std::string& stage, const std::string& name, const std::vector<std::pair<std::string, double>>& figures) {
    std::printf("%-10s %-44s", stage.c_str(), name.c_str());
    for (const auto& [key, value] : figures) std::printf("  %s %.6g", key.c_str(), value);
    std::printf("\n");
    std::fflush(stdout);
    if (!file_) return;
    std::fprintf(file_, "{\"stage\":\"%s\",\"name\":\"%s\"", stage.c_str(), name.c_str());
    for (const auto& [key, value] : figures) std::fprintf(file_, ",\"%s\":%.9g", key.c_str(), value);
    std::fprintf(file_, "}\n");
    std::fflush(file_);
  }

 private:
  std::FILE* file_;
};

struct Bench {
  ops::Device& device;
  Report& report;
  const ops::Table& ops = device.table();
  ops::Backend* backend = device.handle();

  // Median time of one of `repeats` calls, each between events, after `warm` others.
  double milliseconds(const std::function<void()>& work, int repeats = 20, int warm = 3) const {
    for (int i = 0; i < warm; ++i) work();
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) times.push_back(device.milliseconds(work));
    return median(times);
  }
};

// Bell-shaped numbers of the given size in one block that is uploaded over and over: a large memory is filled at the bus's speed.
class RandomBlock {
 public:
  RandomBlock(DType dtype, double size) : dtype_(dtype) {
    for (uint64_t i = 0; i < kElements / 2; ++i)
      for (const float x : normal_pair(philox(1, 2, i))) put(static_cast<float>(x * size));
  }
  void fill(const Bench& b, void* to, int64_t elements) const {
    for (int64_t at = 0; at < elements; at += kElements) {
      const int64_t n = std::min(kElements, elements - at);
      b.ops.upload(b.backend, static_cast<char*>(to) + at * dtype_size(dtype_), bytes_.data(), static_cast<size_t>(n * dtype_size(dtype_)));
    }
  }

 private:
  static constexpr int64_t kElements = int64_t{1} << 22;
  void put(float x) {
    const bf16 half = to_bf16(x);
    const char* from = dtype_ == DType::f32 ? reinterpret_cast<const char*>(&x) : reinterpret_cast<const char*>(&half);
    bytes_.insert(bytes_.end(), from, from + dtype_size(dtype_));
  }
  DType dtype_;
  std::vector<char> bytes_;
};

// A random matrix in the device's memory.
class RandomMatrix {
 public:
  RandomMatrix(const Bench& b, DType dtype, int64_t rows, int64_t cols, double size = 1)
      : buffer_(b.ops, b.backend, static_cast<size_t>(rows * cols * dtype_size(dtype)), "a matrix"), tensor_(buffer_.data(), dtype, rows, cols) {
    if (size > 0) RandomBlock(dtype, size).fill(b, tensor_.data, rows * cols);
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  DeviceBuffer buffer_;
  Tensor tensor_;
};

// The table of a device with the GPU time of every operation added up by its name (profile.cc). One at a time.
class Profile {
 public:
  explicit Profile(ops::Device& device);
  const ops::Table& table() const { return table_; }
  // Milliseconds and calls since the last take, largest first.
  std::vector<std::tuple<std::string, double, int64_t>> take();

 private:
  ops::Table table_;
};

// The parts, by file.
double best_product_tflops(const Bench& b);      // gemm.cc: of large bf16 products
void measure_gemm(const Bench& b);
void measure_few_rows(const Bench& b);           // products of decoding
void measure_attention(const Bench& b);
double copy_bandwidth(const Bench& b);           // memory.cc: GB/s, bytes read and written
void measure_memory(const Bench& b);
// models.cc. Pairs of three parts of `length` tokens; max_tokens: of a micro-batch. Fewer layers where the shape's own do not fit.
enum class TrainMemory {
  plain,         // gradients and AdamW's moments in f32 on the device
  compact,       // gradients of matrices in bf16, moments in 8 bits
  host_moments,  // f32, moments in host memory
};
void measure_training(const Bench& b, const std::string& shape, int64_t max_tokens, int64_t length, int64_t micro_batches, int steps, TrainMemory memory = TrainMemory::plain);
void measure_generation(const Bench& b, const std::string& shape, int64_t sequences, int64_t prompt, int32_t new_tokens);

}  // namespace rlhi::bench
