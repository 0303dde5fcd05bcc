// For the tests of GPU kernels: values and gradients beside those of a reference in float64.
#pragma once

#include <gtest/gtest.h>
#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops::testing {

using Function = std::function<std::vector<mlx::core::array>(const std::vector<mlx::core::array>&)>;

// f's outputs, then the gradients of sum(outputs x cotangents) in `primals`.
inline std::vector<mlx::core::array> values_and_gradients(const Function& f,
                                                          const std::vector<mlx::core::array>& primals,
                                                          const std::vector<mlx::core::array>& cotangents) {
  auto [all, gradients] = mlx::core::vjp(f, primals, cotangents);
  all.insert(all.end(), gradients.begin(), gradients.end());
  mlx::core::eval(all);
  return all;
}

inline std::vector<mlx::core::array> in_float64(std::vector<mlx::core::array> arrays) {
  for (mlx::core::array& a : arrays) {
    a = mlx::core::astype(a, mlx::core::float64, mlx::core::Device::cpu);
  }
  return arrays;
}

// Each array's largest difference, relative to the wanted number or the array's own size where that is larger.
inline void expect_close(const std::vector<mlx::core::array>& got, const std::vector<mlx::core::array>& want,
                         double tolerance) {
  namespace mx = mlx::core;
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].shape(), want[i].shape()) << i;
    if (got[i].size() > 0) {
      const mx::array wide = mx::abs(mx::astype(want[i], mx::float32));
      const mx::array size = mx::sqrt(mx::mean(mx::square(wide)));
      EXPECT_LT(worst_difference(got[i], want[i], mx::maximum(wide, size)), tolerance) << "array " << i;
    }
  }
}

}  // namespace mamba::ops::testing
