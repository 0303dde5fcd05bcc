// Inside linear: rows of arrays as lists of pointers, and which of them are real.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// How many sequences of how many rows: the axes before the last two, and the last but one.
struct SequenceShape {
  int64_t sequences = 1;
  int64_t length = 1;

  explicit SequenceShape(const mlx::core::Shape& shape);
  int64_t rows() const { return sequences * length; }
};

// The rows of an array whose last axis is contiguous, in order. Its memory must be allocated; it is not read.
Rows rows_of(const mlx::core::array& a);
OutRows out_rows_of(mlx::core::array& a);

// A matrix (N, K) whose last axis is contiguous.
Matrix matrix_of(const mlx::core::array& a);

// [begin, end) of the real rows of sequence `index`, counted from that sequence's first row. `spans` (B, 2) row
// after row, or null: all rows are real.
struct Span {
  int64_t begin = 0;
  int64_t end = 0;
};
Span span_of(const int32_t* spans, int64_t index, int64_t length);

// Copies the real rows of `all` to the end of `real`, whose capacity the caller has reserved.
template <typename RowList>
void append_real(const RowList& all, int64_t first, Span span, RowList& real) {
  const auto begin = all.rows.begin() + first;
  real.rows.insert(real.rows.end(), begin + span.begin, begin + span.end);
}

// Fills the rows of sequence `first / length` outside `span` with zeros.
void clear_outside(const OutRows& all, int64_t first, int64_t length, Span span, int64_t columns);

}  // namespace mamba::ops::linear_detail
