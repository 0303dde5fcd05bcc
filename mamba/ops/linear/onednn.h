// Inside linear: products of bfloat16 through oneDNN, on processors that multiply bfloat16 (AVX512_BF16, AMX). There it
// is several times as fast as widening to float32.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// Whether onednn_product is the better choice for these operands on this processor.
bool prefers_onednn(Float left, Float right);

// For tests, which must reach this code on processors without such units too: float32 products go through it as well.
void set_onednn_for_float32(bool on);

// out = left right^T + bias; both operands bfloat16, or both float32. Sums are in float32.
struct OnednnProduct {
  // The rows of `left` that belong together, in order: each group gives the bits it gives alone.
  std::vector<int64_t> groups;
  int64_t n = 0, k = 0;
  Rows left;                // M rows of K elements, or
  bool transposed = false;  // true: K rows of M elements, all one group
  const void* right = nullptr;
  int64_t right_n_stride = 0, right_k_stride = 0;  // elements; one of them is 1
  const float* bias = nullptr;
  OutRows out;  // M rows of N elements
};

// Floats of workspace for a product of m rows in `groups` groups.
int64_t onednn_workspace(int64_t m, int64_t groups, int64_t k, Float type);

// False when oneDNN failed; `out` is then undefined. Does not throw. `workspace` is locked by the caller.
bool onednn_product(const OnednnProduct& product, float* workspace);

}  // namespace mamba::ops::linear_detail
