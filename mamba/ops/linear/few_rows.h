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

// The two pieces of few_rows(), for who hands them to threads himself: rows [begin, end) of x go into the workspace in
// the form in which the second reads them, which then gives columns [begin, end) of all `rows` rows. Where ranges begin
// at multiples of kFewColumnStep is no block of columns cut.
constexpr int64_t kFewColumnStep = 24;
void pack_few(const Rows& x, Float weight_type, int64_t k, int64_t begin, int64_t end, float* packed);
void few_columns(const float* packed, int64_t rows, Float x_type, const Matrix& weight, const float* bias, int64_t k,
                 int64_t begin, int64_t end, const OutRows& y);

// Columns that are worked on for all rows before the next.
constexpr int64_t kMaxFewColumns = 5 * kFewColumnStep;

// Those of bfloat16 times bfloat16, where cpu::has_bf16_products(); at most kMaxFewColumns columns.
namespace bf16 {
void pack(const Rows& x, int64_t k, int64_t begin, int64_t end, float* packed);
void columns(const float* packed, int64_t rows, const Matrix& weight, const float* bias, int64_t k, int64_t begin,
             int64_t end, const OutRows& y);
}  // namespace bf16

}  // namespace mamba::ops::linear_detail
