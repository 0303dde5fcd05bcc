// For tests: products summed in float64, with what their rounding errors are measured by. Compiled without sanitizers
// and with optimisation whatever the tests are, since these plain loops would take most of their time.
#pragma once

#include <cstddef>
#include <vector>

namespace mamba::ops::testing {

struct Exact {
  std::vector<double> sums;
  std::vector<double> magnitudes;  // the sums of what each term is without its sign
};

// a (m, k) times b (n, k)^T: both results are (m, n).
Exact exact_product(const std::vector<float>& a, const std::vector<float>& b, size_t m, size_t n, size_t k);

// a (rows, columns) as (columns, rows).
std::vector<float> transposed(const std::vector<float>& a, size_t rows, size_t columns);

}  // namespace mamba::ops::testing
