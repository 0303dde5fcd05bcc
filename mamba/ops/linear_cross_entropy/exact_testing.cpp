#include "mamba/ops/linear_cross_entropy/exact_testing.h"

#include <algorithm>
#include <cmath>

#include "mamba/ops/linear/exact_testing.h"

namespace mamba::ops::testing {

ExactLogProbability exact_log_probability(const std::vector<float>& x, const std::vector<float>& weight,
                                          const std::vector<int>& targets, const std::vector<float>& cotangents,
                                          size_t k, double rounding) {
  const size_t m = targets.size(), n = weight.size() / k;
  constexpr double kEpsilon = 0x1p-24;
  ExactLogProbability exact{std::vector<double>(m),     std::vector<double>(m),     std::vector<double>(m * k),
                            std::vector<double>(m * k), std::vector<double>(n * k), std::vector<double>(n * k)};
  const Exact all = exact_product(x, weight, m, n, k);
  for (size_t i = 0; i < m; ++i) {
    const double* logits = all.sums.data() + i * n;
    const double* magnitudes = all.magnitudes.data() + i * n;
    const double worst = *std::max_element(magnitudes, magnitudes + n);
    const double maximum = *std::max_element(logits, logits + n);
    double sum = 0;
    for (size_t j = 0; j < n; ++j) {
      sum += std::exp(logits[j] - maximum);
    }
    const double log_sum = maximum + std::log(sum);
    const auto target = static_cast<size_t>(targets[i]);
    const auto g = static_cast<double>(cotangents[i]);
    exact.log_probability[i] = logits[target] - log_sum;
    // The logits' own errors, those of exp and of summing its values, and the last rounding.
    const double logit_error = static_cast<double>(k + 2) * kEpsilon * worst + 2 * kEpsilon * std::abs(log_sum);
    const double error = 2 * logit_error + 4e-7 + static_cast<double>(std::min<size_t>(n, 2048) + 8) * kEpsilon;
    exact.log_probability_bound[i] = error + kEpsilon * std::abs(exact.log_probability[i]);
    for (size_t j = 0; j < n; ++j) {
      const double p = std::exp(logits[j] - log_sum);
      const double gradient = g * ((j == target ? 1.0 : 0.0) - p);
      const double magnitude = std::abs(g) * (p + (j == target ? 1.0 : 0.0));
      const double bound =
          magnitude * (error + static_cast<double>(n + m + 8) * kEpsilon) + rounding * std::abs(gradient);
      for (size_t l = 0; l < k; ++l) {
        const auto w = static_cast<double>(weight[j * k + l]), v = static_cast<double>(x[i * k + l]);
        exact.dx[i * k + l] += gradient * w;
        exact.dx_bound[i * k + l] += bound * std::abs(w);
        exact.dweight[j * k + l] += gradient * v;
        exact.dweight_bound[j * k + l] += bound * std::abs(v);
      }
    }
  }
  return exact;
}

}  // namespace mamba::ops::testing
