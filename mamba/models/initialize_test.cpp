// Each distribution is checked by its bounds, mean and variance on a model large enough that chance deviates by less
// than the tolerances: a few standard errors.
#include "mamba/models/initialize.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <map>

namespace mamba::models {
namespace {

namespace mx = mlx::core;

struct Moments {
  double low;
  double high;
  double mean;
  double variance;
};

Moments moments(const mx::array& a) {
  return {mx::min(a).item<float>(), mx::max(a).item<float>(), mx::mean(a).item<float>(), mx::var(a).item<float>()};
}

void expect_uniform(const mx::array& a, double bound) {
  const Moments m = moments(a);
  const double n = static_cast<double>(a.size());
  const double sigma = bound / std::sqrt(3.0);
  EXPECT_GE(m.low, -bound);
  EXPECT_LE(m.high, bound);
  EXPECT_LT(m.low, -bound * (1 - 20 / n));
  EXPECT_GT(m.high, bound * (1 - 20 / n));
  EXPECT_NEAR(m.mean, 0, 5 * sigma / std::sqrt(n));
  EXPECT_NEAR(m.variance, sigma * sigma, 5 * sigma * sigma / std::sqrt(n));
}

class Initialize : public ::testing::Test {
 protected:
  static Config make_config() {
    Config config;
    config.vocab_size = 500;
    config.d_model = 160;
    config.n_layer = 9;
    config.bias = true;
    config.tie_embeddings = false;
    return config;
  }

  Initialize() : model(make_config()) {
    initialize(model, 7);
    for (const auto& [path, value] : nn::parameters(model)) {
      values.emplace(path, value);
    }
  }

  const mx::array& at(const std::string& name) { return values.at("backbone.layers.4.mixer." + name); }

  MambaLM model;
  std::map<std::string, mx::array> values;
};

TEST_F(Initialize, StateMatrixIsLogOfOneToN) {
  const mx::array a = mx::exp(at("A_log"));
  EXPECT_EQ(a.shape(), (mx::Shape{320, 16}));
  const mx::array expected = mx::broadcast_to(mx::arange(1, 17, mx::float32), {320, 16});
  EXPECT_TRUE(mx::allclose(a, expected, 1e-6, 0).item<bool>());
}

TEST_F(Initialize, OnesAndZeros) {
  EXPECT_TRUE(mx::array_equal(at("D"), mx::ones({320})).item<bool>());
  EXPECT_TRUE(mx::array_equal(values.at("backbone.norm_f.weight"), mx::ones({160})).item<bool>());
  EXPECT_TRUE(mx::array_equal(values.at("backbone.layers.0.norm.weight"), mx::ones({160})).item<bool>());
  EXPECT_TRUE(mx::array_equal(at("in_proj.bias"), mx::zeros({640})).item<bool>());
  EXPECT_TRUE(mx::array_equal(at("out_proj.bias"), mx::zeros({160})).item<bool>());
}

TEST_F(Initialize, LinearLayersFollowPyTorch) {
  expect_uniform(at("in_proj.weight"), 1 / std::sqrt(160.0));
  expect_uniform(at("x_proj.weight"), 1 / std::sqrt(320.0));
  expect_uniform(at("conv1d.weight"), 1 / std::sqrt(4.0));
  expect_uniform(at("conv1d.bias"), 1 / std::sqrt(4.0));
  expect_uniform(values.at("lm_head.weight"), 1 / std::sqrt(160.0));
}

TEST_F(Initialize, OutProjIsScaledByTheRootOfTheLayers) {
  expect_uniform(at("out_proj.weight"), 1 / std::sqrt(320.0) / std::sqrt(9.0));
}

TEST_F(Initialize, DtProjWeight) {
  expect_uniform(at("dt_proj.weight"), 1 / std::sqrt(10.0));
}

TEST_F(Initialize, DtBiasIsInverseSoftplusOfLogUniform) {
  // softplus(bias) must be log-uniform in [0.001, 0.1]: its logarithm is uniform.
  std::vector<mx::array> all;
  for (int i = 0; i < 9; ++i) {
    all.push_back(values.at(fmt::format("backbone.layers.{}.mixer.dt_proj.bias", i)));
  }
  const mx::array dt = mx::logaddexp(mx::concatenate(all), mx::array(0.0f));
  const double middle = (std::log(0.001) + std::log(0.1)) / 2;
  expect_uniform(mx::subtract(mx::log(dt), mx::array(static_cast<float>(middle))),
                 (std::log(0.1) - std::log(0.001)) / 2 * 1.0001);
}

TEST_F(Initialize, EmbeddingIsNormal) {
  const Moments m = moments(values.at("backbone.embeddings.weight"));
  const double n = 500.0 * 160;
  EXPECT_NEAR(m.mean, 0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(m.variance), 0.02, 5 * 0.02 / std::sqrt(2 * n));
  EXPECT_GT(m.high, 3.5 * 0.02);
  const mx::array scaled = mx::divide(values.at("backbone.embeddings.weight"), mx::array(0.02f));
  EXPECT_NEAR(mx::mean(mx::power(scaled, mx::array(4.0f))).item<float>(), 3.0, 0.2);  // a normal's kurtosis
}

TEST_F(Initialize, SeedDecides) {
  MambaLM same(make_config());
  MambaLM other(make_config());
  initialize(same, 7);
  initialize(other, 8);
  const auto equal = [&](MambaLM& m) {
    return mx::array_equal(nn::parameters(m).at("backbone.layers.4.mixer.in_proj.weight"), at("in_proj.weight"))
        .item<bool>();
  };
  EXPECT_TRUE(equal(same));
  EXPECT_FALSE(equal(other));
  EXPECT_FALSE(mx::array_equal(at("in_proj.weight"), values.at("backbone.layers.5.mixer.in_proj.weight")).item<bool>());
}

TEST(InitializeOptions, FloorConstantAndNoRescale) {
  Config config;
  config.vocab_size = 10;
  config.d_model = 64;
  config.n_layer = 4;
  config.dt_init_floor = 0.01;
  config.dt_init_constant = true;
  config.rescale_prenorm_residual = false;
  MambaLM model(config);
  initialize(model, 1);
  const auto values = nn::parameters(model);
  const mx::array dt = mx::logaddexp(values.at("backbone.layers.1.mixer.dt_proj.bias"), mx::array(0.0f));
  EXPECT_NEAR(mx::min(dt).item<float>(), 0.01, 1e-5);
  EXPECT_TRUE(
      mx::array_equal(values.at("backbone.layers.1.mixer.dt_proj.weight"), mx::full({128, 4}, 0.5f)).item<bool>());
  expect_uniform(values.at("backbone.layers.1.mixer.out_proj.weight"), 1 / std::sqrt(128.0));
}

}  // namespace
}  // namespace mamba::models
