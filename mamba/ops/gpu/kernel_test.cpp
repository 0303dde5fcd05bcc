#include "mamba/ops/gpu/kernel.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <cstdlib>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops::gpu {
namespace {

namespace mx = mlx::core;
using mamba::ops::testing::normal;

TEST(Kernel, SourcesInPartsAreJoined) {
  EXPECT_EQ(joined({"int a = 0;\n", "", "int b = a;\n"}), "int a = 0;\nint b = a;\n");
}

TEST(Launches, AreSingleUnlessTheEnvironmentSaysOtherwise) {
  unsetenv("MLX_USE_CUDA_GRAPHS");
  launch_singly();
  EXPECT_STREQ(std::getenv("MLX_USE_CUDA_GRAPHS"), "0");
  setenv("MLX_USE_CUDA_GRAPHS", "1", 1);
  launch_singly();
  EXPECT_STREQ(std::getenv("MLX_USE_CUDA_GRAPHS"), "1");
  unsetenv("MLX_USE_CUDA_GRAPHS");
}

TEST(Kernel, ZerosAreKnownBeforeTheyAreEvaluated) {
  const mx::array a = normal({3, 4}, 1);
  EXPECT_TRUE(known_zero(mx::zeros({3, 4})));
  EXPECT_TRUE(known_zero(mx::zeros_like(a)));
  EXPECT_TRUE(known_zero(mx::stop_gradient(mx::broadcast_to(mx::array(0.0f), {2, 5}))));
  EXPECT_FALSE(known_zero(mx::ones({3, 4})));
  EXPECT_FALSE(known_zero(a));
  EXPECT_FALSE(known_zero(mx::multiply(a, mx::zeros_like(a))));
  EXPECT_FALSE(known_zero(mx::zeros({3, 4}, mx::int32)));
}

}  // namespace
}  // namespace mamba::ops::gpu
