#include "mamba/ops/global_norm/global_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;

double in_float64(const std::vector<mx::array>& arrays) {
  double sum = 0;
  for (const mx::array& a : arrays) {
    const mx::array wide = mx::astype(a, mx::float64, mx::Device::cpu);
    sum += mx::sum(mx::square(wide, mx::Device::cpu), mx::Device::cpu).item<double>();
  }
  return std::sqrt(sum);
}

TEST(GlobalNorm, EqualsFloat64) {
  const std::vector<mx::array> arrays = {normal({1}, 1),
                                         normal({7, 11}, 2, 100.0f),
                                         normal({33'001}, 3, 1.0f, 0.0f, mx::bfloat16),
                                         normal({2, 3, 5}, 4, 1e-3f, 0.0f, mx::float16),
                                         mx::transpose(normal({300, 401}, 5)),
                                         mx::zeros({0, 4})};
  const double want = in_float64(arrays);
  EXPECT_NEAR(global_norm(arrays).item<float>(), want, 1e-7 * want);
  EXPECT_NEAR(global_norm_reference(arrays).item<float>(), want, 1e-5 * want);
}

TEST(GlobalNorm, DoesNotOverflowAndKeepsNan) {
  EXPECT_FLOAT_EQ(global_norm({mx::full({4}, 1e15f)}).item<float>(), 2e15f);
  EXPECT_TRUE(std::isnan(global_norm({normal({5}, 1), mx::array(NAN)}).item<float>()));
  EXPECT_EQ(global_norm({}).item<float>(), 0.0f);
}

TEST(GlobalNorm, SameBitsForAnyNumberOfThreads) {
  const std::vector<mx::array> arrays = {normal({200'003}, 1), normal({99'991}, 2)};
  const mx::array many = global_norm(arrays);
  mx::eval(many);
  set_num_threads(1);
  const mx::array one = global_norm(arrays);
  mx::eval(one);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(many, one));
}

TEST(GlobalNorm, RefusesIntegers) {
  EXPECT_NE(message_of([] { global_norm({mx::array(1)}); }), "no error");
}

}  // namespace
}  // namespace mamba::ops
