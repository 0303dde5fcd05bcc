#include "mamba/quant/quantize.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include <string>

#include "mamba/base/error_testing.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/dequantize.h"
#include "mamba/models/initialize.h"
#include "mamba/models/lora.h"
#include "mamba/models/registry.h"

namespace mamba::quant {
namespace {

namespace mx = mlx::core;

models::Config small_config(bool tied = true) {
  models::Config config;
  config.vocab_size = 71;
  config.d_model = 64;
  config.n_layer = 2;
  config.d_state = 8;
  config.dt_rank = 32;
  config.tie_embeddings = tied;
  config.initializer_range = 0.5;
  return config;
}

models::MambaLM small_model(bool tied = true, mx::Dtype dtype = mx::float32) {
  models::MambaLM model(small_config(tied));
  models::initialize(model, 3);
  model.visit_matrices("", [&](const std::string&, nn::Matrix& m) { m.weight = mx::astype(m.weight, dtype); });
  return model;
}

mx::array some_tokens(int batch, int count) {
  return mx::random::randint(0, 71, {batch, count}, mx::int32, mx::random::key(9));
}

mx::array logits_of(const models::MambaLM& model, const mx::array& tokens) {
  models::State state = model.initial_state(tokens.shape(0));
  return model.forward(tokens, state);
}

float largest_difference(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

TEST(Quantize, EqualsTheModelWithDequantisedWeights) {
  for (const bool tied : {true, false}) {
    for (const int bits : {8, 4}) {
      for (const int group_size : {32, 64}) {
        SCOPED_TRACE(::testing::Message() << "tied " << tied << ", " << bits << " bits, groups of " << group_size);
        models::MambaLM model = small_model(tied);
        quantize(model, {.bits = bits, .group_size = group_size});
        models::MambaLM floats = model;
        models::dequantize(floats, mx::float32);
        for (const int length : {1, 2, 33, 100}) {
          const mx::array tokens = some_tokens(2, length);
          const mx::array expected = logits_of(floats, tokens);
          EXPECT_LT(largest_difference(logits_of(model, tokens), expected),
                    2e-5f * mx::max(mx::abs(expected)).item<float>());
        }
      }
    }
  }
}

TEST(Quantize, ReportsWhatBecameOfEachMatrix) {
  models::MambaLM model = small_model(false);
  const models::MambaLM before = model;
  const Report report = quantize(
      model, {.bits = 4, .group_size = 64, .keep = {"lm_head", "layers.1.mixer.in_proj"}, .measure_errors = true});
  ASSERT_EQ(report.matrices.size(), 10u);
  uint64_t saved = 0;
  for (const MatrixReport& matrix : report.matrices) {
    const bool kept = matrix.path == "lm_head" || matrix.path == "backbone.layers.1.mixer.in_proj";
    const bool narrow = matrix.path.ends_with("dt_proj");  // 32 columns
    EXPECT_EQ(matrix.quantized, !kept && !narrow) << matrix.path;
    EXPECT_EQ(matrix.reason, kept ? "kept" : narrow ? "32 columns are no multiple of 64" : "") << matrix.path;
    if (matrix.quantized) {
      // 4 bits of code, and 16 bits each of scale and bias for 64 weights.
      EXPECT_EQ(matrix.bytes_after * 64, matrix.bytes_before * (4 * 64 + 2 * 16) * 64 / (32 * 64)) << matrix.path;
      // A uniform error of one step has a root mean square of step / sqrt(12); the weights are uniform or normal.
      EXPECT_GT(matrix.relative_error, 0.02) << matrix.path;
      EXPECT_LT(matrix.relative_error, 0.12) << matrix.path;
      EXPECT_GT(matrix.largest_error, 0) << matrix.path;
    } else {
      EXPECT_EQ(matrix.bytes_after, matrix.bytes_before);
    }
    saved += matrix.bytes_before - matrix.bytes_after;
  }
  EXPECT_EQ(report.bytes_before - report.bytes_after, saved);
  EXPECT_EQ(summary(report, {.bits = 4}),
            "6 of 10 matrices to 4 bits in groups of 64; dt_proj stays float (32 columns are no multiple of 64, 2 "
            "matrices); in_proj stays float (kept); lm_head stays float (kept)");
}

TEST(Quantize, ATiedOutputLayerIsTheEmbeddings) {
  for (const char* name : {"lm_head", "embeddings"}) {
    models::MambaLM model = small_model(true);
    const Report report = quantize(model, {.keep = {name}});
    EXPECT_EQ(report.matrices.front().path, "backbone.embeddings");
    EXPECT_FALSE(report.matrices.front().quantized);
    EXPECT_NO_THROW(model.embedding_weight());
  }
}

TEST(Quantize, SaveThenLoadIsBitIdentical) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    models::MambaLM model = small_model(false, dtype);
    quantize(model, {.bits = 4, .keep = {"x_proj"}});
    EXPECT_EQ(model.dtype(), dtype);
    const TemporaryDirectory folder;
    models::save_model(model, folder.path());
    models::MambaLM again = models::load_model(folder.path());
    EXPECT_EQ(again.dtype(), dtype);
    EXPECT_EQ(again.config().quantization->common, (models::Quantization{.group_size = 64, .bits = 4}));
    const mx::array tokens = some_tokens(1, 40);
    EXPECT_TRUE(mx::array_equal(logits_of(again, tokens), logits_of(model, tokens)).item<bool>());
    // Computing in another dtype takes the same weights.
    models::MambaLM other = models::load_model(folder.path(), mx::bfloat16);
    EXPECT_EQ(other.dtype(), mx::bfloat16);
    nn::ParameterMap expected = nn::parameters(model);
    for (auto& [path, value] : nn::parameters(other)) {
      if (path.ends_with("in_proj.weight") || path.ends_with("scales") || path.ends_with("biases")) {
        EXPECT_TRUE(mx::array_equal(value, expected.at(path)).item<bool>()) << path;
      }
    }
  }
}

TEST(Quantize, ScalesKeepToTheWeightsDtype) {
  const auto scales_dtype = [](models::MambaLM model) {
    quantize(model, {});
    mx::Dtype dtype = mx::bool_;
    model.visit_matrices("", [&](const std::string&, nn::Matrix& m) {
      m.unpack();
      if (m.quantized) {
        dtype = m.quantized->scales.dtype();
      }
    });
    return dtype;
  };
  EXPECT_EQ(scales_dtype(small_model(true, mx::float32)), mx::float16);
  EXPECT_EQ(scales_dtype(small_model(true, mx::float16)), mx::float16);
  EXPECT_EQ(scales_dtype(small_model(true, mx::bfloat16)), mx::bfloat16);
  // What float16 does not hold stays float32.
  models::MambaLM large = small_model();
  large.visit_matrices("",
                       [](const std::string&, nn::Matrix& m) { m.weight = mx::multiply(m.weight, mx::array(1e8f)); });
  EXPECT_EQ(scales_dtype(large), mx::float32);
}

TEST(Quantize, AnAdapterActsOnQuantisedWeights) {
  models::MambaLM model = small_model();
  models::add_lora(model, {.rank = 3, .target_modules = {.names = models::lora_target_names()}}, 1);
  models::LoraParameters adapter{model};
  adapter.visit("", [&](const std::string& path, mx::array& value) {
    value = path.ends_with("lora_B.weight") ? mx::full(value.shape(), 0.1f) : value;
  });
  const mx::array tokens = some_tokens(1, 40);
  models::MambaLM bare = small_model();
  quantize(bare, {});
  quantize(model, {});
  EXPECT_GT(largest_difference(logits_of(model, tokens), logits_of(bare, tokens)), 0.05f);
  EXPECT_EQ(message_of<UsageError>([&] { models::merge_lora(model); }),
            "the model is quantised: name the dtype that the merged weights shall have, and quantise again");
  const mx::array expected = logits_of(model, tokens);
  models::merge_lora(model, mx::float32);
  EXPECT_FALSE(model.is_quantized());
  EXPECT_LT(largest_difference(logits_of(model, tokens), expected), 2e-4f);
}

TEST(Quantize, RefusesWhatMakesNoSense) {
  models::MambaLM model = small_model();
  const auto refusal = [&](const Settings& settings) {
    return message_of<UsageError>([&] { quantize(model, settings); });
  };
  EXPECT_EQ(refusal({.bits = 3}), "weights can be quantised to 8 or 4 bits, not to 3");
  EXPECT_EQ(refusal({.group_size = 48}), "the group size must be 32, 64 or 128 but is 48");
  EXPECT_NE(refusal({.keep = {"x_proj", "mlp"}}).find("\"mlp\" is no matrix of this model"), std::string::npos);
  EXPECT_NE(refusal({.keep = {"embeddings", "in_proj", "x_proj", "dt_proj", "out_proj"}}).find("nothing to quantise"),
            std::string::npos);
  EXPECT_FALSE(model.is_quantized());
  quantize(model, {});
  EXPECT_NE(refusal({}).find("quantised already"), std::string::npos);
  EXPECT_NE(message_of<UsageError>([&] { (void)model.embedding_weight(); }).find("quantised to 8 bits"),
            std::string::npos);
  EXPECT_NE(message_of<UsageError>([&] { (void)model.output_weight(); }).find("quantised to 8 bits"),
            std::string::npos);
}

}  // namespace
}  // namespace mamba::quant
