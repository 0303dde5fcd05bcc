// What tests of linear share: checks that hold whichever kernels run.
#pragma once

#include <gtest/gtest.h>
#include <mlx/array.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/exact_testing.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::ops::testing {

// Every element within the error that k float32 multiply-adds in any order, a few more additions and one rounding to
// `dtype` can make.
::testing::AssertionResult within_bound(const std::vector<float>& got, const Exact& exact, size_t k,
                                        mlx::core::Dtype dtype);

struct Gradients {
  mlx::core::array x, weight, bias;
};

Gradients gradients_of(decltype(linear)& f, const mlx::core::array& x, const mlx::core::array& weight,
                       const mlx::core::array& bias, const mlx::core::array& dy, const LinearOptions& options);

// x (m, k) times weight (n, k)^T, and a bias.
void check_product(int m, int n, int k, mlx::core::Dtype x_dtype, mlx::core::Dtype w_dtype, bool has_bias,
                   std::optional<mlx::core::Dtype> out_dtype = {});
// That a sequence's bits depend neither on the batch around it nor on the number of threads.
void check_batches();
void check_low_rank();
void check_gradients();
void check_gradients_with_spans();
void check_gradients_for_any_threads();

// Runs `f` with several thread counts and expects the same bits from each.
template <typename F>
void expect_same_for_any_threads(const F& f) {
  set_num_threads(1);
  const std::vector<uint8_t> one = f();
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(f(), one) << threads << " threads";
  }
  set_num_threads(0);
}

}  // namespace mamba::ops::testing
