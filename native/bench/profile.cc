#include <map>

#include "bench/measure.h"

namespace rlhi::bench {
namespace {

// Functions of a table carry no state of their own.
ops::Device* timed_device = nullptr;
std::map<std::string, std::pair<double, int64_t>> times;

template <auto Member>
struct Timed;
template <class R, class... A, R (*ops::Table::*Member)(ops::Backend*, A...)>
struct Timed<Member> {
  static inline const char* name = nullptr;
  static R call(ops::Backend* backend, A... arguments) {
    auto& [milliseconds, calls] = times[name];
    ++calls;
    if constexpr (std::is_void_v<R>) {
      milliseconds += timed_device->milliseconds([&] { (timed_device->table().*Member)(backend, arguments...); });
    } else {
      R result{};
      milliseconds += timed_device->milliseconds([&] { result = (timed_device->table().*Member)(backend, arguments...); });
      return result;
    }
  }
};

template <auto Member>
void wrap(ops::Table& table, const char* name) {
  Timed<Member>::name = name;
  table.*Member = Timed<Member>::call;
}

// Products by their form, which is what a step spends most of its time in.
void gemm(ops::Backend* backend, const ops::GemmArgs& g) {
  static const char* const names[] = {"gemm y", "gemm dx", "gemm dw"};
  auto& [milliseconds, calls] = times[names[static_cast<int>(g.form)]];
  ++calls;
  milliseconds += timed_device->milliseconds([&] { timed_device->table().gemm(backend, g); });
}

}  // namespace

Profile::Profile(ops::Device& device) : table_(device.table()) {
  timed_device = &device;
  times.clear();
  table_.gemm = gemm;
  table_.repeated = ops::do_each_time;  // and each operation timed
#define RLHI_WRAP(name) wrap<&ops::Table::name>(table_, #name)
  RLHI_WRAP(zero);
  RLHI_WRAP(upload);
  RLHI_WRAP(download);
  RLHI_WRAP(scatter_rows);
  RLHI_WRAP(copy);
  RLHI_WRAP(gather_rows);
  RLHI_WRAP(scatter_add_rows);
  RLHI_WRAP(column_sum);
  RLHI_WRAP(embedding);
  RLHI_WRAP(rms_norm);
  RLHI_WRAP(rms_norm_backward);
  RLHI_WRAP(rope);
  RLHI_WRAP(attention);
  RLHI_WRAP(attention_backward);
  RLHI_WRAP(swiglu);
  RLHI_WRAP(swiglu_backward);
  RLHI_WRAP(linear_logprob);
  RLHI_WRAP(linear_logprob_backward);
  RLHI_WRAP(adamw);
  RLHI_WRAP(choose_tokens);
  RLHI_WRAP(sum_of_squares);
  RLHI_WRAP(preference_loss);
  RLHI_WRAP(clip_factor);
#undef RLHI_WRAP
}

std::vector<std::tuple<std::string, double, int64_t>> Profile::take() {
  std::vector<std::tuple<std::string, double, int64_t>> sorted;
  for (const auto& [name, time] : times) sorted.emplace_back(name, time.first, time.second);
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return std::get<1>(a) > std::get<1>(b); });
  times.clear();
  return sorted;
}

}  // namespace rlhi::bench
