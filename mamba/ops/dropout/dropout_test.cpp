#include "mamba/ops/dropout/dropout.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <cmath>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;

TEST(Dropout, EqualsReference) {
  for (const mx::Shape& shape : {mx::Shape{1}, mx::Shape{3, 5}, mx::Shape{2, 7, 33}, mx::Shape{50'001}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const double rate : {0.0, 0.1, 0.5, 0.9}) {
        const mx::array x = normal(shape, 1, 1.0f, 0.0f, dtype);
        const uint64_t seed = 0x123456789ABCDEFull + shape.size();
        EXPECT_TRUE(same_bits(dropout(x, rate, seed), dropout_reference(x, rate, seed)));
      }
    }
  }
}

TEST(Dropout, DropsTheShareItShouldAndKeepsTheMean) {
  constexpr int kCount = 1'000'000;
  for (const double rate : {0.1, 0.4, 0.75}) {
    const mx::array y = dropout(mx::ones({kCount}), rate, 42);
    const double dropped = mx::sum(mx::equal(y, mx::array(0.0f))).item<int>() / double{kCount};
    const double deviation = std::sqrt(rate * (1 - rate) / kCount);
    EXPECT_NEAR(dropped, rate, 5 * deviation);
    const mx::array wide = mx::astype(y, mx::float64, mx::Device::cpu);
    EXPECT_NEAR(mx::mean(wide, mx::Device::cpu).item<double>(), 1.0, 5 * deviation / (1 - rate));
  }
}

// Neighbours, and the same places under seeds that follow each other, must not drop together.
TEST(Dropout, ElementsAndSeedsAreIndependent) {
  constexpr int kCount = 1'000'000;
  const auto mask = [](uint64_t seed) {
    return mx::astype(mx::not_equal(dropout(mx::ones({kCount}), 0.5, seed), mx::array(0.0f)), mx::float32);
  };
  const mx::array first = mask(7);
  for (const uint64_t other : {uint64_t{8}, uint64_t{7} << 32, uint64_t{7} + (uint64_t{1} << 32)}) {
    EXPECT_NEAR(mx::mean(mx::multiply(first, mask(other))).item<float>(), 0.25, 0.003) << other;
  }
  const mx::array left = mx::slice(first, {0}, {kCount - 1});
  const mx::array right = mx::slice(first, {1}, {kCount});
  EXPECT_NEAR(mx::mean(mx::multiply(left, right)).item<float>(), 0.25, 0.003);
}

TEST(Dropout, GradientDropsTheSameElements) {
  const mx::array x = normal({4, 100}, 1);
  const mx::array w = normal({4, 100}, 2);
  const auto loss = [&](const mx::array& in) { return mx::sum(mx::multiply(dropout(in, 0.3, 5), w)); };
  EXPECT_TRUE(same_bits(mx::grad(loss)(x), dropout(w, 0.3, 5)));
}

TEST(Dropout, SameBitsForAnyNumberOfThreads) {
  const mx::array x = normal({200'003}, 1);
  const mx::array many = dropout(x, 0.2, 9);
  mx::eval(many);
  set_num_threads(1);
  const mx::array one = dropout(x, 0.2, 9);
  mx::eval(one);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(many, one));
}

TEST(Dropout, RefusesRatesThatAreNone) {
  EXPECT_EQ(message_of([] { dropout(mx::ones({2}), 1.0, 1); }), "[dropout] rate must lie in [0, 1) but is 1");
  EXPECT_NE(message_of([] { dropout(mx::ones({2}), -0.1, 1); }), "no error");
}

}  // namespace
}  // namespace mamba::ops
