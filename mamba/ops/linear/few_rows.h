// Inside linear: the product of a few rows with a large matrix, at the speed at which memory delivers the matrix.
#pragma once

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// The workspace that few_rows needs.
constexpr int64_t few_rows_workspace(int64_t rows, int64_t k) {
  return rows * packed_stride(k);
}

// y[i][j] = sum over k of x[i][k] weight[j][k] + bias[j], for j < n. `weight` is read in place, once for every few
// rows of x. Each y[i][j] is the same whatever the other rows are. `bias` may be null. `workspace` is locked by the
// caller. Does not throw.
void few_rows(const Rows& x, const Matrix& weight, const float* bias, int64_t n, int64_t k, const OutRows& y,
              float* workspace);

}  // namespace mamba::ops::linear_detail
