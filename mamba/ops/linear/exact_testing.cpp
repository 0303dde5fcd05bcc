#include "mamba/ops/linear/exact_testing.h"

#include <cmath>

namespace mamba::ops::testing {

Exact exact_product(const std::vector<float>& a, const std::vector<float>& b, size_t m, size_t n, size_t k) {
  Exact exact{std::vector<double>(m * n), std::vector<double>(m * n)};
  const float *left = a.data(), *right = b.data();
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (size_t l = 0; l < k; ++l) {
        const double term = static_cast<double>(left[i * k + l]) * static_cast<double>(right[j * k + l]);
        sum += term;
        magnitude += std::abs(term);
      }
      exact.sums[i * n + j] = sum;
      exact.magnitudes[i * n + j] = magnitude;
    }
  }
  return exact;
}

std::vector<float> transposed(const std::vector<float>& a, size_t rows, size_t columns) {
  std::vector<float> t(a.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      t[j * rows + i] = a[i * columns + j];
    }
  }
  return t;
}

}  // namespace mamba::ops::testing
