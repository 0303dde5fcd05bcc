// Inside linear: the product of many rows by whichever way is faster here.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Floats of workspace for a product of m rows in `groups` groups.
int64_t multiply_workspace(int64_t m, int64_t groups, int64_t k, Float left, Float right);

// The product, by oneDNN where it is preferred and does not fail, else by many_rows. `groups` are the numbers of rows
// that belong together, in order, m in all: each group gives the bits it gives alone. `workspace` is locked by the
// caller. Does not throw.
void multiply(const Product& product, const std::vector<int64_t>& groups, float* workspace);

}  // namespace mamba::ops::linear_detail
