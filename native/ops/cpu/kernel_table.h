// The table of one instruction set. Include a vector layer first.
#pragma once
#include "ops/cpu/kernel_gemm.h"
#include "ops/cpu/kernel_measure.h"
#include "ops/cpu/kernel_model.h"
#include "ops/cpu/kernel_optimizer.h"
#include "ops/cpu/kernel_rows.h"
#include "ops/cpu/kernel_softmax.h"

namespace {

static_assert(kTileRows <= rlhi::ops::kMaxTileRows && kTileWidth <= rlhi::ops::kMaxTileCols);
static_assert(rlhi::ops::kScoreStride % kTileWidth == 0);

constexpr rlhi::ops::Kernels make_kernels(const char* name) {
  rlhi::ops::Kernels k = {};
  k.name = name;
  k.width = kWidth;
  k.mr = kTileRows;
  k.nr = kTileWidth;
  k.kc = kSumBlock;
  k.pack_a = pack_a;
  k.pack_b = pack_b;
  k.gemm_tile = gemm_tile;
  k.convert = convert;
  k.add = add;
  k.scale = scale_row;
  k.scale_columns = scale_columns;
  k.dot = dot;
  k.sum_of_squares = sum_of_squares;
  k.rms_norm = rms_norm;
  k.rms_norm_backward = rms_norm_backward;
  k.rms_norm_weight = rms_norm_weight;
  k.rope = rope;
  k.swiglu = swiglu;
  k.swiglu_backward = swiglu_backward;
  k.row_max = row_max;
  k.row_sum_exp = row_sum_exp;
  k.softmax_gradient = softmax_gradient;
  k.attention_softmax = attention_softmax;
  k.attention_softmax_backward = attention_softmax_backward;
  k.adamw = adamw;
  k.fma_loop = fma_loop;
  k.read_loop = read_loop;
  return k;
}

}  // namespace
