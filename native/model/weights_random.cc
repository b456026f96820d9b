// Random weights: a pure function of the seed and the parameter's name, whatever the machine and the other parameters.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "model/weights.h"

namespace rlhi {
namespace {

constexpr double kStandardDeviation = 0.02;
constexpr int64_t kBlockNumbers = 8;                        // 16 bits each of a Philox block
constexpr int64_t kChunkElements = int64_t{1} << 22, kTaskElements = int64_t{1} << 16;  // multiples of a block's

// The normal distribution's quantiles at the middles of 2^16 equal parts, so that a number is one look-up of 16 random bits:
// eight billion weights take seconds where logarithms and sines would take minutes.
const std::vector<float>& normal_quantiles() {
  static const std::vector<float> table = [] {
    constexpr size_t kParts = 1 << 16;
    std::vector<float> values(kParts);
    double x = 0;
    for (size_t i = kParts / 2; i < kParts; ++i) {          // from the middle outwards
      const double above = (static_cast<double>(kParts - i) - 0.5) / kParts;
      for (double step = 1; step > 1e-14;) {                // Newton, from the left of a convex function's root
        const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
        step = (std::erfc(x / std::numbers::sqrt2) / 2 - above) / density;
        x += step;
      }
      values[i] = static_cast<float>(x * kStandardDeviation);
      values[kParts - 1 - i] = -values[i];
    }
    return values;
  }();
  return table;
}

template <class T>
std::vector<T> quantiles_as() {
  std::vector<T> values;
  for (const float x : normal_quantiles()) {
    if constexpr (std::is_same_v<T, bf16>) values.push_back(to_bf16(x));
    else values.push_back(x);
  }
  return values;
}

// to[i] = number begin + i of the stream; `begin` is a multiple of kBlockNumbers.
template <class T>
void fill_normal(T* to, int64_t begin, int64_t count, uint64_t seed, uint64_t stream, const std::vector<T>& quantiles) {
  for (int64_t i = 0; i < count; i += kBlockNumbers) {
    const PhiloxBlock block = philox(seed, stream, static_cast<uint64_t>((begin + i) / kBlockNumbers));
    for (int64_t j = 0; j < std::min(kBlockNumbers, count - i); ++j)
      to[i + j] = quantiles[block[static_cast<size_t>(j / 2)] >> (16 * (j % 2)) & 0xffff];
  }
}

template <class T>
void fill_matrices(Weights& weights, uint64_t seed, const ops::Table& ops, ops::Backend* backend) {
  const std::vector<T> quantiles = quantiles_as<T>();
  const int64_t workers = std::min<int64_t>(std::thread::hardware_concurrency(), weights.elements() / kTaskElements);
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(workers, 1, 64)));
  std::vector<T> chunk(static_cast<size_t>(std::min(kChunkElements, weights.elements())));
  for (const NamedParameter& p : weights.parameters) {
    if (!p.is_matrix) continue;
    Hash64 name;
    name.add_text(p.name);
    const uint64_t stream = name.digest();
    for (int64_t begin = 0; begin < p.view.size(); begin += kChunkElements) {
      const int64_t count = std::min(kChunkElements, p.view.size() - begin);
      pool.parallel_for((count + kTaskElements - 1) / kTaskElements, [&](int64_t task, int) {
        const int64_t first = task * kTaskElements;
        fill_normal(chunk.data() + first, begin + first, std::min(kTaskElements, count - first), seed, stream, quantiles);
      });
      ops.upload(backend, static_cast<T*>(p.view.data) + begin, chunk.data(), static_cast<size_t>(count) * sizeof(T));
    }
  }
}

template <class T>
void fill_norms(const Weights& weights, T one, const ops::Table& ops, ops::Backend* backend) {
  for (const NamedParameter& p : weights.parameters) {
    if (p.is_matrix || p.name.ends_with(".bias")) continue;  // biases: zero, as allocated
    const std::vector<T> ones(static_cast<size_t>(p.view.size()), one);
    ops.upload(backend, p.view.data, ones.data(), ones.size() * sizeof(T));
  }
}

}  // namespace

std::unique_ptr<Weights> random_weights(const ModelConfig& config, DType dtype, uint64_t seed, const ops::Table& ops,
                                        ops::Backend* backend) {
  auto weights = std::make_unique<Weights>(config, dtype, ops, backend);
  if (dtype == DType::f32) {
    fill_matrices<float>(*weights, seed, ops, backend);
    fill_norms<float>(*weights, 1.0f, ops, backend);
  } else {
    fill_matrices<bf16>(*weights, seed, ops, backend);
    fill_norms<bf16>(*weights, to_bf16(1.0f), ops, backend);
  }
  return weights;
}

}  // namespace rlhi
