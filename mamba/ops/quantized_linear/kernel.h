// Inside quantized_linear: its CPU kernels, on plain memory.
#pragma once

#include <cstdint>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::quantized_detail {

using linear_detail::Float;
using linear_detail::OutRows;
using linear_detail::Rows;

// What is to be known of weights (N, K) in the affine format, however they lie.
struct Format {
  Float type = Float::kFloat32;  // of scales and biases
  int64_t group_size = 64;
  int64_t bits = 8;
  int64_t n = 0;
  int64_t k = 0;

  int64_t groups() const { return k / group_size; }
  int64_t row_bytes() const { return k * bits / 8; }
};

// As checkpoints have them, each of the three arrays row-contiguous.
struct Quantized : Format {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
};

// As packed.h has them.
struct Packed : Format {
  static constexpr int64_t kColumns = 16;  // rows of W, columns of the result, that lie beside each other

  const uint8_t* tiles = nullptr;

  int64_t group_words() const { return group_size * bits / 32; }
  int64_t code_bytes() const { return kColumns * group_words() * 4; }  // of a tile; its scales and biases follow
  int64_t scale_bytes() const { return kColumns * linear_detail::size_of(type); }
  int64_t tile_bytes() const { return code_bytes() + 2 * scale_bytes(); }
  int64_t block_bytes() const { return groups() * tile_bytes(); }
  int64_t blocks() const { return (n + kColumns - 1) / kColumns; }
  const uint8_t* block(int64_t index) const { return tiles + index * block_bytes(); }
};

// Floats of workspace for `rows` rows of x.
int64_t few_rows_workspace(int64_t rows, int64_t k);

// y[i][j] = sum over k of x[i][k] W[j][k] + bias[j]; each the same whatever the other rows are. The codes are read
// once for every few rows of x. `bias` may be null. `workspace` is locked by the caller. Does not throw.
void few_rows(const Rows& x, const Quantized& weight, const float* bias, const OutRows& y, float* workspace);
void few_rows(const Rows& x, const Packed& weight, const float* bias, const OutRows& y, float* workspace);

// The two pieces of few_rows(), as in ops/linear/few_rows.h.
constexpr int64_t kFewColumnStep = 16;
void pack_few(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed);
void few_columns(const Quantized& weight, int64_t rows, Float x_type, const float* packed, const float* bias,
                 int64_t begin, int64_t end, const OutRows& y);
void pack_few(const Rows& x, const Packed& weight, int64_t begin, int64_t end, float* packed);
// Groups [begin, end) of all rows.
void pack_few_groups(const Rows& x, const Packed& weight, int64_t begin, int64_t end, float* packed);
void few_columns(const Packed& weight, int64_t rows, Float x_type, const float* packed, const float* bias,
                 int64_t begin, int64_t end, const OutRows& y);

// Those of packed weights and x in bfloat16, where cpu::has_bf16_products().
namespace bf16 {
void pack_row(const void* x, const Packed& weight, int64_t first_group, int64_t end_group, int64_t row, float* packed);
void columns(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin, int64_t end,
             const OutRows& y);
// Columns [n, n + columns), n a multiple of Packed::kColumns, and pairs [first, first + depth) of k, whole groups, as
// linear_detail::PanelSource has them.
void pack_panel(const Packed& weight, int64_t n, int64_t columns, int64_t first, int64_t depth, uint32_t* panel);
}  // namespace bf16

// bf16::columns() on tiles, to the same bits, where can_multiply() so many rows.
namespace amx {
bool can_multiply(int64_t rows);
void columns(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin, int64_t end,
             const OutRows& y);
}  // namespace amx

// Row `row` of W, rounded once to `type`. On the calling thread.
void dequantize_row(const Quantized& weight, int64_t row, Float type, void* to);
void dequantize_row(const Packed& weight, int64_t row, Float type, void* to);

}  // namespace mamba::ops::quantized_detail
