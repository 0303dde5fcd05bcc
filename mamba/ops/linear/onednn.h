// Inside linear: products of bfloat16 through oneDNN, on processors that multiply bfloat16 and on which no kernel of
// our own runs.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Whether onednn_product is a better choice for these operands on this processor than widening them.
bool onednn_multiplies(Float left, Float right);

// For tests, which must reach this code on any processor: float32 products go through it as well, and bfloat16 ones
// that kernels of our own would take.
void set_always_onednn(bool on);
bool always_onednn();

// Floats of workspace for a product of m rows in `groups` groups.
int64_t onednn_workspace(int64_t m, int64_t groups, int64_t k, Float type);

// many_rows' product, of operands that are both bfloat16 or both float32, K > 0. `groups` are the numbers of rows that
// belong together, in order: each group gives the bits it gives alone. False, and `out` as before, when
// oneDNN has no kernel for it. Does not throw. `workspace` is locked by the caller.
bool onednn_product(const Product& product, const std::vector<int64_t>& groups, float* workspace);

}  // namespace mamba::ops::linear_detail
