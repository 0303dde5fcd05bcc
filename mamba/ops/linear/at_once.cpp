#include "mamba/ops/linear/at_once.h"

#include <algorithm>
#include <cstddef>

#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/turned.h"

namespace mamba::ops::linear_detail {

namespace {

void point(Left& left, const Matrix& matrix, int64_t rows, bool transposed) {
  left.transposed = transposed;
  left.rows.type = matrix.type;
  left.rows.rows.resize(static_cast<size_t>(rows));
  const auto* const data = static_cast<const std::byte*>(matrix.data);
  for (int64_t i = 0; i < rows; ++i) {
    left.rows.rows[static_cast<size_t>(i)] = data + i * matrix.stride * size_of(matrix.type);
  }
}

void point(OutRows& out, const MatrixPlace& place, int64_t rows) {
  out.type = place.type;
  out.rows.resize(static_cast<size_t>(rows));
  auto* const data = static_cast<std::byte*>(place.data);
  for (int64_t i = 0; i < rows; ++i) {
    out.rows[static_cast<size_t>(i)] = data + i * place.stride * size_of(place.type);
  }
}

void set_extent(Product& product, int64_t m, int64_t n, int64_t k) {
  product.m = m;
  product.n = n;
  product.k = k;
}

}  // namespace

ProductsAtOnce::ProductsAtOnce(int64_t sequences, int64_t length, int64_t widest)
    : rows_(sequences * length), sequences_(static_cast<size_t>(sequences), length), one_group_(1) {
  const auto most = static_cast<size_t>(std::max(rows_, widest));
  for (Product* product : {&product_, &of_weight_}) {
    product->left.rows.rows.reserve(most);
    product->out.rows.reserve(most);
  }
}

int64_t ProductsAtOnce::workspace(int64_t n, int64_t k, Float type) const {
  const auto sequences = static_cast<int64_t>(sequences_.size());
  const int64_t turned = is_better_turned(n, k, type, type) ? copied_floats(k, n) : 0;
  const int64_t both = type == Float::kBfloat16 ? bf16::both_workspace(rows_, n) : 0;
  return std::max({both, multiply_workspace(rows_, sequences, k, type, type),
                   multiply_workspace(rows_, sequences, n, type, type),
                   turned + multiply_workspace(std::max(n, k), 1, rows_, type, type)});
}

void ProductsAtOnce::forward(const Matrix& x, const Matrix& weight, int64_t n, int64_t k, const MatrixPlace& y) {
  set_extent(product_, rows_, n, k);
  product_.right = {.matrix = weight, .by_k = false, .panels = nullptr};
  point(product_.left, x, rows_, false);
  point(product_.out, y, rows_);
  multiply(product_, sequences_, workspace_);
}

void ProductsAtOnce::gradients(const Matrix& dy, const Matrix& weight, const Matrix& x, int64_t n, int64_t k,
                               const MatrixPlace& dx, const MatrixPlace& dweight) {
  set_extent(product_, rows_, k, n);
  product_.right = {.matrix = weight, .by_k = true, .panels = nullptr};
  point(product_.left, dy, rows_, false);
  point(product_.out, dx, rows_);
  if (dweight.data == nullptr || is_better_turned(n, k, dy.type, x.type)) {
    multiply(product_, sequences_, workspace_);
    if (dweight.data != nullptr) {
      turned_weight_gradient(dy, x, n, k, dweight);
    }
    return;
  }
  set_extent(of_weight_, n, k, rows_);
  of_weight_.right = {.matrix = x, .by_k = true, .panels = nullptr};
  point(of_weight_.left, dy, rows_, true);
  point(of_weight_.out, dweight, n);
  if (multiplies_both(product_, of_weight_)) {
    bf16::multiply_both(product_, of_weight_, workspace_);
    return;
  }
  one_group_[0] = n;
  multiply(product_, sequences_, workspace_);
  multiply(of_weight_, one_group_, workspace_);
}

void ProductsAtOnce::turned_weight_gradient(const Matrix& dy, const Matrix& x, int64_t n, int64_t k,
                                            const MatrixPlace& dweight) {
  float* const sums = workspace_;
  one_group_[0] = k;
  set_extent(of_weight_, k, n, rows_);
  of_weight_.right = {.matrix = dy, .by_k = true, .panels = nullptr};
  point(of_weight_.left, x, rows_, true);
  point(of_weight_.out, {.data = sums, .stride = n, .type = Float::kFloat32}, k);
  multiply(of_weight_, one_group_, workspace_ + copied_floats(k, n));
  point(of_weight_.out, dweight, n);
  turn(sums, k, n, of_weight_.out);
}

}  // namespace mamba::ops::linear_detail
