#include "mamba/nn/lora.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>

#include "mamba/nn/layers.h"

namespace mamba::nn {
namespace {

namespace mx = mlx::core;

mx::array random_array(const mx::Shape& shape, uint64_t seed, mx::Dtype dtype = mx::float32) {
  return mx::astype(mx::random::normal(shape, mx::float32, mx::random::key(seed)), dtype);
}

Linear layer_with_lora(int out, int in, int rank, mx::Dtype dtype, mx::Dtype lora_dtype = mx::float32) {
  Linear layer;
  layer.weight = mx::multiply(random_array({out, in}, 1, dtype), mx::array(0.1f, dtype));
  layer.bias = random_array({out}, 2);
  Lora lora = Lora::initial(in, out, rank, 0.75f, mx::random::key(3));
  lora.A = mx::astype(lora.A, lora_dtype);
  lora.B = random_array({out, rank}, 4, lora_dtype);
  layer.lora = lora;
  return layer;
}

Linear merged(Linear layer) {
  layer.weight = mx::add(mx::astype(layer.weight, mx::float32), layer.lora->product());
  layer.lora.reset();
  return layer;
}

TEST(Lora, InitialValuesAreHesUniformAndZero) {
  const Lora lora = Lora::initial(400, 30, 16, 2.0f, mx::random::key(0));
  EXPECT_EQ(lora.A.shape(), (mx::Shape{16, 400}));
  EXPECT_EQ(lora.B.shape(), (mx::Shape{30, 16}));
  EXPECT_EQ(lora.rank(), 16);
  EXPECT_LE(mx::max(mx::abs(lora.A)).item<float>(), 0.05f);
  // The standard deviation of U(-a, a) is a / sqrt(3); 6,400 numbers come within a few per cent.
  EXPECT_NEAR(mx::std(lora.A).item<float>(), 0.05f / std::sqrt(3.0f), 0.001f);
  EXPECT_EQ(mx::max(mx::abs(lora.B)).item<float>(), 0.0f);
}

TEST(Lora, ActsLikeTheMergedWeights) {
  for (const auto& [out, in, rank] : {std::tuple{37, 21, 5}, {1, 1, 1}, {70, 130, 8}, {9, 3, 33}}) {
    for (const int length : {1, 7, 90}) {
      SCOPED_TRACE(::testing::Message() << out << " x " << in << " rank " << rank << " L=" << length);
      const mx::array x = random_array({2, length, in}, 5);
      const Linear layer = layer_with_lora(out, in, rank, mx::float32);
      const mx::array expected = merged(layer)(x);
      EXPECT_TRUE(mx::allclose(layer(x), expected, 1e-5, 2e-5).item<bool>());
      const mx::array bare = mx::add(layer.without_bias(x), *layer.bias);
      EXPECT_TRUE(mx::allclose(bare, expected, 1e-5, 2e-5).item<bool>());
    }
  }
}

TEST(Lora, RoundsToSixteenBitsOnce) {
  const mx::array x = random_array({1, 40, 50}, 6, mx::bfloat16);
  for (const mx::Dtype lora_dtype : {mx::float32, mx::bfloat16}) {
    const Linear layer = layer_with_lora(31, 50, 4, mx::bfloat16, lora_dtype);
    const mx::array wide = merged(layer)(x, {}, true);
    const mx::array y = layer(x);
    ASSERT_EQ(y.dtype(), mx::bfloat16);
    // Half a unit of bfloat16, and a little for sums in another order.
    EXPECT_TRUE(mx::allclose(mx::astype(y, mx::float32), wide, 0x1p-8 + 1e-5, 1e-4).item<bool>());
    EXPECT_EQ(layer(x, {}, true).dtype(), mx::float32);
    EXPECT_TRUE(mx::allclose(layer(x, {}, true), wide, 1e-5, 1e-4).item<bool>());
  }
}

TEST(Lora, KeepsToTheSpans) {
  const Linear layer = layer_with_lora(12, 9, 3, mx::float32);
  const mx::array x = random_array({2, 20, 9}, 7);
  const mx::array y = layer(x, mx::array({0, 20, 4, 9}, {2, 2}));
  const mx::array whole = layer(x);
  EXPECT_TRUE(
      mx::array_equal(mx::slice(y, {0, 0, 0}, {1, 20, 12}), mx::slice(whole, {0, 0, 0}, {1, 20, 12})).item<bool>());
  EXPECT_EQ(mx::max(mx::abs(mx::slice(y, {1, 9, 0}, {2, 20, 12}))).item<float>(), 0.0f);
  EXPECT_TRUE(mx::allclose(mx::slice(y, {1, 4, 0}, {2, 9, 12}), mx::slice(whole, {1, 4, 0}, {2, 9, 12}), 1e-5, 1e-5)
                  .item<bool>());
}

TEST(Lora, GradientsEqualThoseThroughTheMergedWeights) {
  const Linear layer = layer_with_lora(23, 17, 4, mx::float32);
  const mx::array x = random_array({2, 11, 17}, 8);
  const mx::array dy = random_array({2, 11, 23}, 9);
  const auto through = [&](bool merge) {
    return mx::vjp(
               [&](const std::vector<mx::array>& in) {
                 Linear copy = layer;
                 copy.lora->A = in[1];
                 copy.lora->B = in[2];
                 return std::vector{merge ? merged(copy)(in[0]) : copy(in[0])};
               },
               {x, layer.lora->A, layer.lora->B}, {dy})
        .second;
  };
  const std::vector<mx::array> expected = through(true);
  const std::vector<mx::array> got = through(false);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(mx::allclose(got[i], expected[i], 1e-4, 1e-4).item<bool>()) << "argument " << i;
  }
}

TEST(Lora, IsNoParameterOfTheLayer) {
  Linear layer = layer_with_lora(5, 4, 2, mx::float32);
  EXPECT_EQ(parameters(layer).size(), 2u);
  EXPECT_EQ(parameters(*layer.lora).count("lora_A.weight"), 1u);
  EXPECT_EQ(parameters(*layer.lora).count("lora_B.weight"), 1u);
}

}  // namespace
}  // namespace mamba::nn
