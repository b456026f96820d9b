#include "ops/device_limits.h"

#include <algorithm>
#include <vector>

#include "ops/device_buffer.h"
#include "ops/random_block.h"

namespace rlhi::ops {
namespace {

constexpr int64_t kLargestSide = 8192, kLargestCopy = int64_t{1} << 28;  // f32 numbers
constexpr double kLongEnough = 2;        // ms
constexpr int kRepeats = 10;

DeviceBuffer memory(Device& device, int64_t bytes) { return DeviceBuffer(device.table(), device.handle(), static_cast<size_t>(bytes), "a measurement"); }

double median_ms(Device& device, const std::function<void()>& work) {
  work();                                // chooses algorithms
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) times.push_back(device.milliseconds(work));
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
}

double measure_products(Device& device, DType dtype) {
  const RandomBlock numbers(device.table(), device.handle());
  double best = 0;
  for (int64_t side = 128; side <= kLargestSide; side *= 2) {
    const int64_t bytes = side * side * dtype_size(dtype);
    const DeviceBuffer a = memory(device, bytes), b = memory(device, bytes), c = memory(device, bytes);
    GemmArgs g;
    g.a = Tensor(a.data(), dtype, side, side), g.b = Tensor(b.data(), dtype, side, side), g.c = Tensor(c.data(), dtype, side, side);
    numbers.fill(g.a), numbers.fill(g.b);
    const double ms = median_ms(device, [&] { device.table().gemm(device.handle(), g); });
    best = std::max(best, 2e3 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side) / ms);
    if (ms > kLongEnough) break;
  }
  return best;
}

double measure_copies(Device& device) {
  double best = 0;
  for (int64_t n = int64_t{1} << 20; n <= kLargestCopy; n *= 4) {
    const DeviceBuffer from = memory(device, 4 * n), to = memory(device, 4 * n);
    const double ms = median_ms(device, [&] { device.table().copy(device.handle(), Tensor(to.data(), DType::f32, 1, n), Tensor(from.data(), DType::f32, 1, n)); });
    best = std::max(best, 8e3 * static_cast<double>(n) / ms);
    if (ms > kLongEnough) break;
  }
  return best;
}

}  // namespace

DeviceLimits measure_device(Device& device, DType dtype) { return {measure_products(device, dtype), measure_copies(device)}; }

}  // namespace rlhi::ops
