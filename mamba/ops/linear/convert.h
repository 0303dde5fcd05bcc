// Inside linear: single rows from and to float32.
#pragma once

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// On the calling thread.
void widen(const void* from, Float type, int64_t count, float* to);
void narrow(const float* from, int64_t count, Float type, void* to);

// to[i][l] = element first + i of row l, for i < count; one row of `to` follows the other. Elements of 2 or 4 bytes, as
// `rows` has them. On the calling thread.
void transpose(const Rows& rows, int64_t first, int64_t count, void* to);

// sums[j] = sum over the rows, in order, of element j < count. On all threads.
void sum_rows(const Rows& rows, int64_t count, float* sums);

}  // namespace mamba::ops::linear_detail
