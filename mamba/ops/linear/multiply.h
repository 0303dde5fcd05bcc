// Inside linear: the product of many rows by whichever way is faster here.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Whether operands of these dtypes are multiplied as bfloat16 here, several times as fast as widened to float32.
bool multiplies_in_bf16(Float left, Float right);

// Floats of workspace for a product of m rows in `groups` groups.
int64_t multiply_workspace(int64_t m, int64_t groups, int64_t k, Float left, Float right);

// The product, by the first of amx::many_rows, bf16::many_rows and oneDNN that can, else by many_rows. `groups` are
// the numbers of rows that belong together, in order, m in all: each group gives the bits it gives alone. `workspace`
// is locked by the caller. Does not throw.
void multiply(const Product& product, const std::vector<int64_t>& groups, float* workspace);

// Whether bf16::multiply_both does what multiply() would do with each of the two.
bool multiplies_both(const Product& of_x, const Product& of_weight);

// The same in pieces; null where another way than these is taken, or k is too long.
const ManyRows* multiply_in_pieces(Float left, Float right, int64_t k);

// The rows as one matrix: in place when they lie at equal distances, else copied to `copy`, copied_floats() of them.
Matrix as_matrix(const Rows& rows, int64_t columns, float* copy);
constexpr int64_t copied_floats(int64_t rows, int64_t columns) {
  return (rows * columns + 16) / 16 * 16;
}

}  // namespace mamba::ops::linear_detail
