// Inside CPU nodes that are made of several operations: linear and its gradients without nodes of their own, to the
// same bits, between matrices that lie in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Sequences of so many rows each are many rows for linear, whatever the dtype: not more have kernels of another order.
constexpr int64_t kFewestManyRows = 33;

// Where a matrix goes, rows `stride` elements apart.
struct MatrixPlace {
  void* data = nullptr;
  int64_t stride = 0;
  Float type = Float::kFloat32;
};

// Of matrices of `sequences` times `length` rows, length at least kFewestManyRows. Constructed where an exception can
// be thrown; the rest does not throw, and runs on all threads.
class ProductsAtOnce {
 public:
  // `widest`: the most rows that a weight has.
  ProductsAtOnce(int64_t sequences, int64_t length, int64_t widest);

  // Floats of workspace for weights (n, k) of x's type, in either.
  int64_t workspace(int64_t n, int64_t k, Float type) const;
  // Locked by the caller.
  void set_workspace(float* workspace) { workspace_ = workspace; }

  // y = x W^T, W (n, k).
  void forward(const Matrix& x, const Matrix& weight, int64_t n, int64_t k, const MatrixPlace& y);
  // dx = dy W and dW = dy^T x. dW may be nowhere: null, and is not wanted then.
  void gradients(const Matrix& dy, const Matrix& weight, const Matrix& x, int64_t n, int64_t k, const MatrixPlace& dx,
                 const MatrixPlace& dweight);

 private:
  void turned_weight_gradient(const Matrix& dy, const Matrix& x, int64_t n, int64_t k, const MatrixPlace& dweight);

  int64_t rows_;
  float* workspace_ = nullptr;
  Product product_, of_weight_;
  std::vector<int64_t> sequences_, one_group_;
};

}  // namespace mamba::ops::linear_detail
