// Plain rows: conversion, sums and products of single rows.
#pragma once
#include "ops/cpu/kernel_math.h"

namespace {

void convert(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n, float scale) {
  with_type(to, to_dtype, [&](auto* out) {
    with_type(from, from_dtype, [&](const auto* in) {
      if (scale == 1.0f) for_vectors(n, [&](int64_t i, int count) { store_up_to(out + i, load_up_to(in + i, count), count); });
      else for_vectors(n, [&](int64_t i, int count) { store_up_to(out + i, load_up_to(in + i, count) * vset(scale), count); });
    });
  });
}

void add(void* to, DType to_dtype, const void* from, DType from_dtype, int64_t n) {
  with_type(to, to_dtype, [&](auto* out) {
    with_type(from, from_dtype, [&](const auto* in) {
      for_vectors(n, [&](int64_t i, int count) { store_up_to(out + i, load_up_to(out + i, count) + load_up_to(in + i, count), count); });
    });
  });
}

void scale_row(float* x, float factor, int64_t n) {
  for_vectors(n, [&](int64_t i, int count) { store_up_to(x + i, load_up_to(x + i, count) * vset(factor), count); });
}
void scale_columns(float* x, int64_t stride, int64_t rows, const float* factors, int64_t n) {
  for (int64_t i = 0; i < rows; ++i, x += stride) {
    for_vectors(n, [&](int64_t j, int count) { store_up_to(x + j, load_up_to(x + j, count) * load_up_to(factors + j, count), count); });
  }
}

float dot(const float* a, const float* b, int64_t n) {
  return sum_over(n, [&](int64_t i, int count) { return load_up_to(a + i, count) * load_up_to(b + i, count); });
}

inline double as_double(float x) { return static_cast<double>(x); }
inline double as_double(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return static_cast<double>(f);
}

// Eight sums in double, folded in a fixed order; squares of floats are exact in double.
double sum_of_squares(const void* data, DType dtype, int64_t n) {
  double sums[8] = {};
  with_type(data, dtype, [&](const auto* x) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += as_double(x[i + j]) * as_double(x[i + j]);
    }
    for (int j = 0; i < n; ++i, ++j) sums[j] += as_double(x[i]) * as_double(x[i]);
  });
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

}  // namespace
