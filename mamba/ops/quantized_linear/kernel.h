// Inside quantized_linear: its CPU kernels, on plain memory.
#pragma once

#include <cstdint>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::quantized_detail {

using linear_detail::Float;
using linear_detail::OutRows;
using linear_detail::Rows;

// (N, K) in the affine format, each of the three arrays row-contiguous.
struct Quantized {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
  Float type = Float::kFloat32;  // of scales and biases
  int64_t group_size = 64;
  int64_t bits = 8;
  int64_t n = 0;
  int64_t k = 0;

  int64_t groups() const { return k / group_size; }
  int64_t row_bytes() const { return k * bits / 8; }
};

// Floats of workspace for `rows` rows of x.
int64_t few_rows_workspace(int64_t rows, int64_t k);

// y[i][j] = sum over k of x[i][k] W[j][k] + bias[j]; each the same whatever the other rows are. The codes are read
// once for every few rows of x. `bias` may be null. `workspace` is locked by the caller. Does not throw.
void few_rows(const Rows& x, const Quantized& weight, const float* bias, const OutRows& y, float* workspace);

// The two pieces of few_rows(), as in ops/linear/few_rows.h.
constexpr int64_t kFewColumnStep = 16;
void pack_few(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed);
void few_columns(const Quantized& weight, int64_t rows, Float x_type, const float* packed, const float* bias,
                 int64_t begin, int64_t end, const OutRows& y);

// Those of x in bfloat16, where cpu::has_bf16_products().
namespace bf16 {
void pack(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed);
void columns(const Quantized& weight, int64_t rows, const float* packed, const float* bias, int64_t begin, int64_t end,
             const OutRows& y);
}  // namespace bf16

// Row `row` of W, rounded once to `type`. On the calling thread.
void dequantize_row(const Quantized& weight, int64_t row, Float type, void* to);

}  // namespace mamba::ops::quantized_detail
