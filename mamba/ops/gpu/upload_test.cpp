#include "mamba/ops/gpu/upload.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/ops/dispatch.h"

namespace mamba::ops::gpu {
namespace {

namespace mx = mlx::core;

TEST(Upload, GivesTheNumbersHoweverManyAreOnTheirWay) {
  take_gpu_paths(true);
  const mx::Stream stream = mx::default_stream(mx::Device::cpu);
  std::vector<mx::array> whole;
  std::vector<mx::array> floats;
  for (int i = 0; i < 60; ++i) {
    whole.push_back(uploaded(std::vector<int32_t>(static_cast<size_t>(3 * i), i), {i, 3}, stream));
    floats.push_back(uploaded(std::vector<float>(2000, 0.5f * static_cast<float>(i)), {2000}, stream));
    if (i % 7 == 6) {
      mx::eval(whole.back(), floats.back());  // its memory is used again
    }
  }
  take_gpu_paths(false);
  for (int i = 0; i < 60; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_EQ(whole[at].shape(), mx::Shape({i, 3}));
    EXPECT_TRUE(mx::all(mx::equal(whole[at], mx::array(i))).item<bool>());
    EXPECT_EQ(floats[at].dtype(), mx::float32);
    EXPECT_TRUE(mx::all(mx::equal(floats[at], mx::array(0.5f * static_cast<float>(i)))).item<bool>());
  }
  const mx::array plain = uploaded(std::vector<int32_t>{4, 5}, {2}, stream);
  EXPECT_TRUE(mx::array_equal(plain, mx::array({4, 5})).item<bool>());
}

}  // namespace
}  // namespace mamba::ops::gpu
