#include "mamba/ops/linear/multiply.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/base/warning.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/onednn.h"

namespace mamba::ops::linear_detail {

bool multiplies_in_bf16(Float left, Float right) {
  return left == Float::kBfloat16 && right == Float::kBfloat16 &&
         (cpu::has_bf16_products() || onednn_multiplies(left, right));
}

int64_t multiply_workspace(int64_t m, int64_t groups, int64_t k, Float left, Float right) {
  int64_t floats = many_rows_workspace(m, k);
  if (left == Float::kBfloat16 && right == Float::kBfloat16) {
    floats = std::max({floats, amx::many_rows_workspace(m, k), bf16::many_rows_workspace(m, k)});
  }
  return onednn_multiplies(left, right) ? std::max(floats, onednn_workspace(m, groups, k, left)) : floats;
}

Matrix as_matrix(const Rows& rows, int64_t columns, float* copy) {
  const int64_t size = size_of(rows.type);
  const auto at = [&](int64_t row) { return static_cast<const std::byte*>(rows.rows[static_cast<size_t>(row)]); };
  const int64_t distance = rows.count() > 1 ? at(1) - at(0) : columns * size;
  bool equal = distance % size == 0 && distance >= columns * size;
  for (int64_t row = 1; row < rows.count() && equal; ++row) {
    equal = at(row) - at(row - 1) == distance;
  }
  if (equal) {
    return {.data = rows.count() > 0 ? at(0) : nullptr, .stride = distance / size, .type = rows.type};
  }
  auto* to = reinterpret_cast<std::byte*>(copy);
  const int64_t bytes = columns * size;
  parallel_for(rows.count(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(to + row * bytes, at(row), static_cast<size_t>(bytes));
    }
  });
  return {.data = copy, .stride = columns, .type = rows.type};
}

void multiply(const Product& product, const std::vector<int64_t>& groups, float* workspace) {
  if (product.m == 0 || product.n == 0) {
    return;
  }
  const Float left = product.left.rows.type, right = product.right.matrix.type;
  if (!always_onednn() && amx::can_multiply(product)) {
    amx::many_rows(product, workspace);
    return;
  }
  if (!always_onednn() && bf16::can_multiply(product)) {
    bf16::many_rows(product, workspace);
    return;
  }
  if (product.k > 0 && onednn_multiplies(left, right)) {
    if (onednn_product(product, groups, workspace)) {
      return;
    }
    try {
      warn_once("oneDNN could not multiply bfloat16 matrices: they are widened to float32 instead, more slowly");
    } catch (...) {
      // Nothing may leave what MLX runs for us, and the product is right without the warning.
    }
  }
  many_rows(product, workspace);
}

bool multiplies_both(const Product& of_x, const Product& of_weight) {
  return !always_onednn() && !amx::can_multiply(of_x) && !amx::can_multiply(of_weight) &&
         bf16::can_multiply_both(of_x, of_weight);
}

const ManyRows* multiply_in_pieces(Float left, Float right, int64_t k) {
  Product product;
  product.k = k;
  product.left.rows.type = left;
  product.right.matrix.type = right;
  const bool in_bf16 = bf16::can_multiply(product);
  if (always_onednn() || amx::can_multiply(product) || (!in_bf16 && onednn_multiplies(left, right))) {
    return nullptr;
  }
  const ManyRows& pieces = in_bf16 ? bf16::many_rows_in_pieces() : many_rows_in_pieces();
  return pieces.fits(k) ? &pieces : nullptr;
}

}  // namespace mamba::ops::linear_detail
