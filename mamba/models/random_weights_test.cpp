#include "mamba/models/random_weights.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <cmath>

#include "mamba/base/error.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/mamba.h"
#include "mamba/models/shapes.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config small_config() {
  Config config;
  config.vocab_size = 37;
  config.d_model = 24;
  config.n_layer = 2;
  fill_derived(config);
  return config;
}

TEST(RandomWeights, MakeAModelThatRuns) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    MambaLM model(small_config());
    load_parameters(*random_checkpoint(small_config(), dtype), model);
    EXPECT_EQ(model.dtype(), dtype);
    State state = model.initial_state();
    const mx::array logits = model.forward(mx::array({1, 2, 36, 0, 5}, {1, 5}, mx::int32), state);
    EXPECT_TRUE(mx::all(mx::isfinite(logits)).item<bool>());
    const auto spread = mx::std(logits).item<float>();
    EXPECT_GT(spread, 1e-3f);
    EXPECT_LT(spread, 10.0f);
    model.visit("", [&](const std::string& path, mx::array& value) {
      EXPECT_EQ(value.dtype(), keeps_precision(path) ? mx::float32 : dtype) << path;
    });
  }
}

TEST(RandomWeights, MakeQuantisedModels) {
  for (const int bits : {4, 8}) {
    Config config = small_config();
    config.d_model = 32;
    config.d_inner = 64;
    config.quantization = QuantizationConfig{.common = {.group_size = 32, .bits = bits}};
    MambaLM model(config);
    load_parameters(*random_checkpoint(config, mx::bfloat16), model, mx::bfloat16);
    EXPECT_EQ(model.dtype(), mx::bfloat16);
    model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
      EXPECT_EQ(matrix.quantized.has_value(), !path.ends_with("dt_proj")) << path;  // two columns are no group
      if (matrix.quantized) {
        EXPECT_EQ(matrix.quantized->bits, bits);
        const mx::array values = mx::abs(matrix.dense(mx::float32));
        EXPECT_LT(mx::max(values).item<float>(), 0.0316f);
        EXPECT_NEAR(mx::mean(values).item<float>(), 1.0f / 64, 1.0f / 512);
      }
    });
    State state = model.initial_state();
    EXPECT_TRUE(mx::all(mx::isfinite(model.forward(mx::array({1, 2, 36}, {1, 3}, mx::int32), state))).item<bool>());
  }
}

TEST(RandomWeights, AreTheSameEachTimeAndDifferBetweenTensors) {
  const auto first = random_checkpoint(small_config(), mx::float32);
  const auto second = random_checkpoint(small_config(), mx::float32);
  for (const std::string& name : first->names()) {
    EXPECT_TRUE(mx::array_equal(first->load(name), second->load(name)).item<bool>()) << name;
  }
  EXPECT_FALSE(mx::array_equal(first->load("backbone.layers.0.mixer.in_proj.weight"),
                               first->load("backbone.layers.1.mixer.in_proj.weight"))
                   .item<bool>());
  EXPECT_THROW(first->load("absent"), Error);
  const mx::array weight = first->load("backbone.layers.0.mixer.in_proj.weight");
  EXPECT_NEAR(mx::mean(weight).item<float>(), 0, 0.02);
  EXPECT_NEAR(mx::std(weight).item<float>(), 1 / std::sqrt(3.0 * 24), 0.01);
}

TEST(Shapes, HaveThePublishedSizes) {
  // Parameters of the checkpoints on the hub, embeddings counted once.
  const std::pair<const char*, int64_t> published[] = {
      {"130m", 129135360}, {"370m", 371516416}, {"790m", 793204224}, {"1.4b", 1372178432}, {"2.8b", 2768345600}};
  std::vector<std::string> names;
  for (const auto& [name, count] : published) {
    names.emplace_back(name);
    EXPECT_EQ(published_shape(name).parameter_count(), count) << name;
  }
  EXPECT_EQ(shape_names(), names);
  EXPECT_THROW(published_shape("7b"), UsageError);
}

}  // namespace
}  // namespace mamba::models
