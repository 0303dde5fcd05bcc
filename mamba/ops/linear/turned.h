// Inside linear: gradients of weights, dy^T x, that are computed as x^T dy. Rows of dy are read column by column to be
// packed as the left operand, which costs more than the product where x has few columns, as in a low-rank adapter;
// there x^T dy is computed instead, whose elements are the same sums, and turned.
#pragma once

#include <cstdint>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// Of a gradient (n, k).
bool is_better_turned(int64_t n, int64_t k, Float dy, Float x);

// to[j][i] = from[i][j] for i < rows, j < columns, on all threads. `rows` is a `k` of which is_better_turned() holds.
void turn(const float* from, int64_t rows, int64_t columns, const OutRows& to);

}  // namespace mamba::ops::linear_detail
