#include "mamba/models/pack.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <map>
#include <string>

#include "mamba/models/checkpoint.h"
#include "mamba/models/dequantize.h"
#include "mamba/models/random_weights.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

constexpr int kTokens[] = {1, 2, 36, 0, 5};

// 40 tokens and 96 channels: blocks of 16 that are whole and ones that are not. dt_proj stays float.
Config config_of(int bits) {
  Config config;
  config.vocab_size = 40;
  config.d_model = 32;
  config.d_inner = 96;
  config.d_state = 4;
  config.dt_rank = 3;
  config.n_layer = 2;
  config.tie_embeddings = bits == 8;
  config.quantization = QuantizationConfig{.common = {.group_size = 32, .bits = bits}};
  return config;
}

MambaLM random_model(int bits, mx::Dtype dtype) {
  MambaLM model(config_of(bits));
  load_parameters(*random_checkpoint(model.config(), dtype), model, dtype);
  return model;
}

std::map<std::string, mx::array> parameters(MambaLM& model) {
  std::map<std::string, mx::array> out;
  model.visit("", [&](const std::string& path, mx::array& value) { out.emplace(path, value); });
  return out;
}

int packed_matrices(MambaLM& model) {
  int count = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) { count += matrix.packed ? 1 : 0; });
  return count;
}

mx::array logits_of(const MambaLM& model, int count) {
  State state = model.initial_state();
  return model.forward(mx::array(kTokens, {1, count}, mx::int32), state);
}

TEST(Pack, LosesNothing) {
  for (const int bits : {4, 8}) {
    MambaLM model = random_model(bits, mx::bfloat16);
    const std::map<std::string, mx::array> before = parameters(model);
    std::map<std::string, size_t> bytes;
    model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) { bytes[path] = matrix.bytes(); });
    pack_matrices(model);
    EXPECT_EQ(packed_matrices(model), 2 * 3 + (bits == 8 ? 1 : 2));
    model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
      EXPECT_EQ(matrix.bytes(), bytes[path]) << path;
      const mx::Shape shape = parameter_shape(path + ".weight", model.config());
      EXPECT_EQ((mx::Shape{matrix.rows(), matrix.columns()}), shape) << path;
    });
    pack_matrices(model);  // nothing is left to do
    const std::map<std::string, mx::array> after = parameters(model);
    EXPECT_EQ(packed_matrices(model), 0);
    ASSERT_EQ(after.size(), before.size());
    for (const auto& [path, value] : before) {
      EXPECT_TRUE(mx::array_equal(after.at(path), value).item<bool>()) << path;
    }
  }
}

TEST(Pack, ChangesNoResultBeyondRounding) {
  for (const int bits : {4, 8}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      const MambaLM plain = random_model(bits, dtype);
      MambaLM model = random_model(bits, dtype);
      pack_matrices(model);
      for (const int count : {1, 5}) {
        const mx::array expected = logits_of(plain, count);
        const float size = mx::max(mx::abs(expected)).item<float>();
        mx::array difference = mx::max(mx::abs(mx::subtract(logits_of(model, count), expected)));
        EXPECT_LT(difference.item<float>(), (dtype == mx::float32 ? 1e-5f : 0x1p-6f) * size) << dtype;
      }
    }
  }
}

TEST(Pack, IsPartOfPreparingWhereItIsFaster) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    MambaLM model = random_model(4, dtype);
    model.prepare();
    EXPECT_EQ(packed_matrices(model) > 0, ops::prefers_packed(dtype, mx::default_stream(mx::default_device())));
  }
}

TEST(Pack, GoesWhenAModelIsDequantised) {
  MambaLM plain = random_model(8, mx::bfloat16);
  MambaLM model = plain;
  pack_matrices(model);
  EXPECT_EQ(packed_matrices(plain), 0);  // a copy is packed by itself
  dequantize(model, mx::float32);
  dequantize(plain, mx::float32);
  EXPECT_EQ(packed_matrices(model), 0);
  const std::map<std::string, mx::array> expected = parameters(plain);
  for (const auto& [path, value] : parameters(model)) {
    EXPECT_TRUE(mx::array_equal(value, expected.at(path)).item<bool>()) << path;
  }
}

}  // namespace
}  // namespace mamba::models
