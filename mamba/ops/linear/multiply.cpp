#include "mamba/ops/linear/multiply.h"

#include <algorithm>

#include "mamba/base/warning.h"
#include "mamba/ops/linear/onednn.h"

namespace mamba::ops::linear_detail {

int64_t multiply_workspace(int64_t m, int64_t groups, int64_t k, Float left, Float right) {
  const int64_t floats = many_rows_workspace(m, k);
  return prefers_onednn(left, right) ? std::max(floats, onednn_workspace(m, groups, k, left)) : floats;
}

void multiply(const Product& product, const std::vector<int64_t>& groups, float* workspace) {
  if (product.m == 0 || product.n == 0) {
    return;
  }
  if (product.k > 0 && prefers_onednn(product.left.rows.type, product.right.matrix.type)) {
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

}  // namespace mamba::ops::linear_detail
