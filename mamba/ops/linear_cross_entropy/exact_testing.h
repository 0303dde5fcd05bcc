// For tests: log-probabilities and their gradients in float64. Compiled without sanitizers and with optimisation, as
// linear/exact_testing.h is and for the same reason.
#pragma once

#include <cstddef>
#include <vector>

namespace mamba::ops::testing {

// Beside each number the bound of what float32 arithmetic may miss it by.
struct ExactLogProbability {
  std::vector<double> log_probability, log_probability_bound;  // (m)
  std::vector<double> dx, dx_bound;                            // (m, k)
  std::vector<double> dweight, dweight_bound;                  // (n, k)
};

// x (m, k), weight (n, k), targets (m) in [0, n), cotangents (m). `rounding` is what the gradient of a logit loses,
// relatively, before it is multiplied.
ExactLogProbability exact_log_probability(const std::vector<float>& x, const std::vector<float>& weight,
                                          const std::vector<int>& targets, const std::vector<float>& cotangents,
                                          size_t k, double rounding);

}  // namespace mamba::ops::testing
