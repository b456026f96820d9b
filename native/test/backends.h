// The backends that tests run on: every instruction set of the CPU or, with --device NAME, that device alone.
#pragma once
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/device_buffer.h"
#include "ops/device.h"

namespace rlhi::test {

struct BackendChoice {
  std::string device = "cpu";
  ops::CpuIsa isa = ops::default_isa();
  std::string name() const { return device == "cpu" ? ops::isa_name(isa) : device; }
};

inline std::string& chosen_device() {  // set by main
  static std::string name = "cpu";
  return name;
}
inline std::optional<ops::CpuIsa>& chosen_isa() {  // set by main: the CPU's only path
  static std::optional<ops::CpuIsa> isa;
  return isa;
}
inline bool on_cpu() { return chosen_device() == "cpu"; }
inline BackendChoice default_backend() { return {chosen_device(), chosen_isa().value_or(ops::default_isa())}; }
inline std::vector<BackendChoice> every_backend() {
  if (!on_cpu()) return {default_backend()};
  if (chosen_isa()) return {default_backend()};
  std::vector<BackendChoice> all;
  for (const ops::CpuIsa isa : ops::available_isas()) all.push_back({"cpu", isa});
  return all;
}
// The fastest path of the CPU that multiplies bf16 as f32, for tests that compare with it to more than bf16's precision.
inline ops::CpuIsa widening_isa() {
  ops::CpuIsa fastest = ops::CpuIsa::portable;
  for (const ops::CpuIsa isa : ops::available_isas()) {
    if (isa == ops::CpuIsa::avx2 || isa == ops::CpuIsa::avx512) fastest = isa;
  }
  return fastest;
}
inline std::unique_ptr<ops::Device> open_backend(const BackendChoice& choice = default_backend(), int threads = 0) {
  return ops::open_device({choice.device, threads, choice.isa});
}

// The bytes of backend memory.
inline std::vector<char> download(const ops::Table& ops, ops::Backend* backend, const void* from, size_t bytes) {
  std::vector<char> to(bytes);
  ops.download(backend, to.data(), from, bytes);
  return to;
}
// A contiguous tensor of backend memory, widened to float.
inline std::vector<float> download_floats(const ops::Table& ops, ops::Backend* backend, const Tensor& from) {
  const std::vector<char> bytes = download(ops, backend, from.data, static_cast<size_t>(from.bytes()));
  std::vector<float> floats(static_cast<size_t>(from.size()));
  for (size_t i = 0; i < floats.size(); ++i) {
    if (from.dtype == DType::f32) {
      std::memcpy(&floats[i], bytes.data() + 4 * i, 4);
    } else {
      bf16 half;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      floats[i] = to_float(half);
    }
  }
  return floats;
}
inline void upload_floats(const ops::Table& ops, ops::Backend* backend, const Tensor& to, const std::vector<float>& from) {
  if (to.dtype == DType::f32) return ops.upload(backend, to.data, from.data(), from.size() * sizeof(float));
  std::vector<bf16> halves(from.size());
  for (size_t i = 0; i < from.size(); ++i) halves[i] = to_bf16(from[i]);
  ops.upload(backend, to.data, halves.data(), halves.size() * sizeof(bf16));
}

// A zeroed matrix in backend memory, for an operation to write and a test to read.
class DeviceMatrix {
 public:
  DeviceMatrix(const ops::Table& ops, ops::Backend* backend, DType dtype, int64_t rows, int64_t cols)
      : ops_(ops), backend_(backend), buffer_(ops, backend, static_cast<size_t>(rows * cols * dtype_size(dtype)), "a test's matrix"),
        tensor_(buffer_.data(), dtype, rows, cols) {}
  const Tensor& tensor() const { return tensor_; }
  std::vector<float> floats() const { return download_floats(ops_, backend_, tensor_); }
  std::vector<char> bytes() const { return download(ops_, backend_, tensor_.data, static_cast<size_t>(tensor_.bytes())); }

 private:
  const ops::Table& ops_;
  ops::Backend* backend_;
  DeviceBuffer buffer_;
  Tensor tensor_;
};

}  // namespace rlhi::test
