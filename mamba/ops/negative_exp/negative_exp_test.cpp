#include "mamba/ops/negative_exp/negative_exp.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::inside_wider;
using testing::normal;

std::vector<double> doubles(const mx::array& a) {
  mx::array dense = mx::contiguous(a);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

// The largest relative error of `got` as factor(i) -e^x[i].
double worst_error(const mx::array& got, const mx::array& x, const std::function<double(size_t)>& factor) {
  const std::vector<double> values = doubles(got);
  const std::vector<double> inputs = doubles(x);
  double worst = values.size() == inputs.size() ? 0.0 : INFINITY;
  for (size_t i = 0; i < values.size(); ++i) {
    const double want = -factor(i) * std::exp(inputs[i]);
    worst = std::max(worst, std::abs(values[i] - want) / std::abs(want));
  }
  return worst;
}

TEST(NegativeExp, IsExact) {
  const auto one = [](size_t) { return 1.0; };
  for (const mx::Shape& shape :
       {mx::Shape{1}, mx::Shape{0}, mx::Shape{15}, mx::Shape{17}, mx::Shape{97, 16}, mx::Shape{1537, 31}}) {
    const mx::array x = normal(shape, 1, 3.0f, -1.0f);
    EXPECT_LT(worst_error(negative_exp(x), x, one), 2e-7);
    EXPECT_LT(worst_error(negative_exp(inside_wider(x, 2, 5)), x, one), 2e-7);
  }
}

TEST(NegativeExp, IsItsOwnDerivative) {
  const mx::array x = normal({33, 16}, 1);
  const mx::array given = normal({33, 16}, 2);
  const auto run = [](const std::vector<mx::array>& in) { return std::vector{negative_exp(in[0])}; };
  const mx::array got = mx::vjp(run, {x}, {given}).second[0];
  const std::vector<double> factors = doubles(given);
  EXPECT_LT(worst_error(got, x, [&](size_t i) { return factors[i]; }), 3e-7);
}

TEST(NegativeExp, RefusesOtherDtypes) {
  EXPECT_EQ(message_of([] { negative_exp(mx::zeros({2}, mx::bfloat16)); }),
            "[negative_exp] x must be float32 but is bfloat16");
}

}  // namespace
}  // namespace mamba::ops
