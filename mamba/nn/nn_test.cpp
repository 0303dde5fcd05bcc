#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include "mamba/nn/layers.h"

namespace mamba::nn {
namespace {

namespace mx = mlx::core;

TEST(Linear, EqualsMatmulPlusBias) {
  Linear layer;
  layer.weight = mx::random::normal({5, 7});
  layer.bias = mx::random::normal({5});
  const mx::array x = mx::random::normal({2, 3, 7});
  const mx::array expected = mx::add(mx::matmul(x, mx::transpose(layer.weight)), *layer.bias);
  EXPECT_TRUE(mx::allclose(layer(x), expected, 1e-5, 1e-5).item<bool>());
}

TEST(Embedding, TakesRows) {
  Embedding layer;
  layer.weight = mx::reshape(mx::arange(12.0f), {4, 3});
  const mx::array y = layer(mx::array({3, 0}, {1, 2}, mx::int32));
  EXPECT_EQ(y.shape(), (mx::Shape{1, 2, 3}));
  EXPECT_TRUE(mx::array_equal(y, mx::array({9.0f, 10.0f, 11.0f, 0.0f, 1.0f, 2.0f}, {1, 2, 3})).item<bool>());
}

TEST(Parameters, ListsAndMapsFollowTheVisitingOrder) {
  Linear layer;
  layer.weight = mx::zeros({2, 2});
  EXPECT_EQ(parameters(layer).size(), 1u);
  layer.bias = mx::ones({2});
  EXPECT_EQ(parameters(layer).count("bias"), 1u);
  std::vector<mx::array> values = parameter_list(layer);
  ASSERT_EQ(values.size(), 2u);
  values[1] = mx::full({2}, 3.0f);
  set_parameter_list(layer, values);
  EXPECT_EQ(mx::sum(*layer.bias).item<float>(), 6.0f);
  EXPECT_EQ(joined("", "weight"), "weight");
  EXPECT_EQ(joined("backbone", "norm_f"), "backbone.norm_f");
}

}  // namespace
}  // namespace mamba::nn
