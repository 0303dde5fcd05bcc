// Inside linear_cross_entropy: the memory that forward and backward share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "mamba/ops/linear/multiply.h"

namespace mamba::ops::linear_cross_entropy_detail {

// Logits are made for a block of tokens x words: large enough that its products run at full speed, small enough to
// stay in the third-level cache.
constexpr int64_t kBlockTokens = 512;
constexpr int64_t kBlockWords = 2048;

constexpr int64_t logits_stride(int64_t words) {
  return linear_detail::packed_stride(std::min(words, kBlockWords));
}
constexpr int64_t logits_floats(int64_t tokens, int64_t words) {
  return std::min(tokens, kBlockTokens) * logits_stride(words);
}

// Rows of a float32 block as a product's output.
inline void point_to_block(float* block, int64_t stride, int64_t rows, linear_detail::OutRows& out) {
  out.type = linear_detail::Float::kFloat32;
  out.rows.clear();
  for (int64_t row = 0; row < rows; ++row) {
    out.rows.push_back(block + row * stride);
  }
}

// Rows [begin, begin + count) of a matrix.
inline linear_detail::Matrix rows_from(const linear_detail::Matrix& matrix, int64_t begin) {
  linear_detail::Matrix part = matrix;
  part.data = static_cast<const std::byte*>(matrix.data) + begin * matrix.stride * size_of(matrix.type);
  return part;
}

}  // namespace mamba::ops::linear_cross_entropy_detail
