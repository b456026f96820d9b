// Random weights: a pure function of the seed and the parameter's name, whatever the machine and the other parameters.
#include <algorithm>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "model/weights.h"

namespace rlhi {
namespace {

constexpr float kStandardDeviation = 0.02f;
constexpr int64_t kChunkElements = int64_t{1} << 22;  // even: a pair of normal numbers lies in one chunk

// to[i] = number begin + i of the stream; `begin` is even.
void fill_normal(float* to, int64_t begin, int64_t count, uint64_t seed, uint64_t stream) {
  for (int64_t i = 0; i < count; i += 2) {
    const auto pair = normal_pair(philox(seed, stream, static_cast<uint64_t>((begin + i) / 2)));
    to[i] = pair[0] * kStandardDeviation;
    if (i + 1 < count) to[i + 1] = pair[1] * kStandardDeviation;
  }
}

void fill_normal_parallel(std::vector<float>& to, int64_t begin, uint64_t seed, uint64_t stream) {
  const int64_t count = static_cast<int64_t>(to.size());
  const int64_t workers = std::clamp<int64_t>(std::min<int64_t>(std::thread::hardware_concurrency(), count / 65536), 1, 16);
  const int64_t share = (count / workers + 2) / 2 * 2;
  std::vector<std::jthread> threads;
  for (int64_t first = share; first < count; first += share) {
    threads.emplace_back([&to, begin, first, n = std::min(share, count - first), seed, stream] {
      fill_normal(to.data() + first, begin + first, n, seed, stream);
    });
  }
  fill_normal(to.data(), begin, std::min(share, count), seed, stream);
}

void upload_floats(const std::vector<float>& from, void* to, DType dtype, const ops::Table& ops, ops::Backend* backend) {
  if (dtype == DType::f32) return ops.upload(backend, to, from.data(), from.size() * sizeof(float));
  std::vector<bf16> halves(from.size());
  std::transform(from.begin(), from.end(), halves.begin(), to_bf16);
  ops.upload(backend, to, halves.data(), halves.size() * sizeof(bf16));
}

}  // namespace

std::unique_ptr<Weights> random_weights(const ModelConfig& config, DType dtype, uint64_t seed, const ops::Table& ops,
                                        ops::Backend* backend) {
  auto weights = std::make_unique<Weights>(config, dtype, ops, backend);
  for (const NamedParameter& p : weights->parameters) {
    if (p.name.ends_with(".bias")) continue;  // zero, as allocated
    Hash64 name;
    name.add_text(p.name);
    for (int64_t begin = 0; begin < p.view.size(); begin += kChunkElements) {
      std::vector<float> values(static_cast<size_t>(std::min(kChunkElements, p.view.size() - begin)), 1.0f);
      if (p.is_matrix) fill_normal_parallel(values, begin, seed, name.digest());
      upload_floats(values, static_cast<char*>(p.view.data) + begin * dtype_size(dtype), dtype, ops, backend);
    }
  }
  return weights;
}

}  // namespace rlhi
