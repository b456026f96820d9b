// Rows of a tensor on the device, read and written in groups of kGroup neighbouring elements as floats.
//
// What is bound by memory does not mind a branch on the element type that all threads take alike, so kernels are compiled for
// the group's size only: 8 where every tensor is bf16 (16 bytes), 4 where one is f32 (16 bytes, or 8 of bf16), 1 where
// columns, strides or addresses do not allow either.
#pragma once
#include <initializer_list>

#include "ops/cuda/kernels/device.cuh"

namespace rlhi::ops::cuda {

struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
  bool is_f32 = true;

  Rows() = default;
  Rows(const Tensor& t) : data(t.data), stride(t.row_stride), is_f32(t.dtype == DType::f32) {}
  RLHI_DEVICE explicit operator bool() const { return data != nullptr; }
  RLHI_DEVICE void* at(int64_t row, int64_t column) const {
    return static_cast<char*>(data) + (row * stride + column) * (is_f32 ? 4 : 2);
  }
};

// A group of elements as it lies in memory; loads of several can be in flight before the first is used.
template <int kGroup>
struct Group {
  uint32_t w[kGroup];
};

template <int kGroup>
RLHI_DEVICE Group<kGroup> load_group(const void* p, bool is_f32) {
  static_assert(kGroup == 1 || kGroup == 4 || kGroup == 8);
  Group<kGroup> g;
  if constexpr (kGroup == 1) {
    g.w[0] = is_f32 ? load_words<uint32_t>(p) : load_words<uint16_t>(p);
  } else if constexpr (kGroup == 4) {
    if (is_f32) {
      const Words4 v = load_words<Words4>(p);
      g.w[0] = v.w[0], g.w[1] = v.w[1], g.w[2] = v.w[2], g.w[3] = v.w[3];
    } else {
      const Words2 v = load_words<Words2>(p);
      g.w[0] = v.w[0], g.w[1] = v.w[1];
    }
  } else {  // bf16 alone
    const Words4 v = load_words<Words4>(p);
    g.w[0] = v.w[0], g.w[1] = v.w[1], g.w[2] = v.w[2], g.w[3] = v.w[3];
  }
  return g;
}
template <int kGroup>
RLHI_DEVICE void to_floats(float (&x)[kGroup], const Group<kGroup>& g, bool is_f32) {
  if constexpr (kGroup == 1) {
    x[0] = as_float(is_f32 ? g.w[0] : g.w[0] << 16);
  } else if constexpr (kGroup == 4) {
    if (is_f32) {
      RLHI_UNROLL
      for (int i = 0; i < 4; ++i) x[i] = as_float(g.w[i]);
      return;
    }
  }
  if constexpr (kGroup > 1) {
    RLHI_UNROLL
    for (int i = 0; i < kGroup; i += 2) x[i] = as_float(g.w[i / 2] << 16), x[i + 1] = as_float(g.w[i / 2] & 0xffff0000u);
  }
}
template <int kGroup>
RLHI_DEVICE void load_floats(float (&x)[kGroup], const void* p, bool is_f32) {
  to_floats(x, load_group<kGroup>(p, is_f32), is_f32);
}
template <int kGroup>
RLHI_DEVICE void store_floats(void* p, bool is_f32, const float (&x)[kGroup]) {
  if constexpr (kGroup == 1) {
    if (is_f32) store_words(p, as_bits(x[0]));
    else store_words(p, static_cast<uint16_t>(pack_bf16(x[0], 0)));
  } else if constexpr (kGroup == 4) {
    if (is_f32) store_words(p, Words4{{as_bits(x[0]), as_bits(x[1]), as_bits(x[2]), as_bits(x[3])}});
    else store_words(p, Words2{{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])}});
  } else {
    store_words(p, Words4{{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])}});
  }
}

// The widest group that every tensor's rows, `cols` wide, can be read in. Empty tensors do not matter.
inline int group_size(std::initializer_list<Tensor> tensors, int64_t cols) {
  bool any_f32 = false;
  for (const Tensor& t : tensors) any_f32 = any_f32 || (t && t.dtype == DType::f32);
  const int group = any_f32 ? 4 : 8;
  if (cols % group != 0) return 1;
  for (const Tensor& t : tensors) {
    if (!t) continue;
    const auto bytes = static_cast<uintptr_t>(group * dtype_size(t.dtype));
    if (reinterpret_cast<uintptr_t>(t.data) % bytes != 0 || (t.rows > 1 && t.row_stride % group != 0)) return 1;
  }
  return group;
}
// f(size) with the group's size as a constant
template <int kSize>
struct GroupSize {
  static constexpr int value = kSize;
};
template <class F>
void with_group_size(int size, const F& f) {
  if (size == 8) f(GroupSize<8>());
  else if (size == 4) f(GroupSize<4>());
  else f(GroupSize<1>());
}

// Division by a number that all threads share, as a product: dividing takes a thread longer than all else it does before its first load
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994). Of dividends in [0, 2^62) by [1, 2^62].
struct Division {
  int64_t by;
  uint64_t multiplier;  // 2 ceil(2^(62 + shift) / by)
  int32_t shift = 0;    // ceil(log2(by))

  Division(int64_t divisor) : by(divisor) {
    check(by >= 1, ErrorCode::internal, "division by ", by);
    __extension__ typedef unsigned __int128 Wide;
    while (int64_t{1} << shift < by) ++shift;
    multiplier = 2 * static_cast<uint64_t>(((Wide{1} << (62 + shift)) + static_cast<Wide>(by - 1)) / static_cast<Wide>(by));
  }
  RLHI_DEVICE int64_t quotient(int64_t dividend) const {
    return static_cast<int64_t>(multiply_high(2 * static_cast<uint64_t>(dividend), multiplier) >> shift);
  }
};

// Where group `index` of a tensor lies that has per_row.by groups a row.
struct Place {
  int64_t row, group;
};
RLHI_DEVICE Place place_of(int64_t index, const Division& per_row) {
  const int64_t row = per_row.quotient(index);
  return {row, index - row * per_row.by};
}

RLHI_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// SwiGLU of one element.
RLHI_DEVICE float gated(float gate, float up) { return gate * sigmoid(gate) * up; }
RLHI_DEVICE float round_bf16(float x) { return as_float(pack_bf16(0, x) & 0xffff0000u); }

}  // namespace rlhi::ops::cuda
