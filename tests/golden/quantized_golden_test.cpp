// Checkpoints that mlx-lm quantised, against mlx-lm's logits: tests/golden/quantized/README.md.
#include <gtest/gtest.h>
#include <mlx/io.h>
#include <mlx/ops.h>

#include <filesystem>
#include <string>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/dequantize.h"
#include "mamba/models/registry.h"
#include "tests/golden/in_pieces.h"

namespace mamba {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using testing::in_pieces;
using testing::largest_difference;

constexpr float kTolerance = 2e-4f;  // absolute, on logits of order 10: that of the other golden models

const fs::path& golden_folder() {
  static const fs::path folder = fs::path(MAMBA_SOURCE_DIR) / "tests" / "golden" / "quantized";
  return folder;
}

std::vector<std::string> cases() {
  return read_json(golden_folder() / "manifest.json").at("cases").get<std::vector<std::string>>();
}

class QuantizedGolden : public ::testing::TestWithParam<std::string> {
 protected:
  // Logits in pieces of `step` tokens.
  mx::array logits_of(const models::MambaLM& model, int step) const { return in_pieces(model, tokens, step); }

  const fs::path folder = golden_folder() / GetParam();
  const std::unordered_map<std::string, mx::array> golden =
      mx::load_safetensors((folder / "golden.safetensors").string()).first;
  const mx::array tokens = golden.at("tokens");
  const mx::array logits = golden.at("logits");
};

TEST_P(QuantizedGolden, LogitsOfOneForwardAndOfSingleTokens) {
  const models::MambaLM model = models::load_model(folder, mx::float32);
  EXPECT_TRUE(model.is_quantized());
  EXPECT_EQ(model.dtype(), mx::float32);
  for (const int step : {45, 40, 7, 1}) {
    EXPECT_LT(largest_difference(logits_of(model, step), logits), kTolerance) << "step " << step;
  }
}

TEST_P(QuantizedGolden, DequantisedWeightsGiveTheSame) {
  models::MambaLM model = models::load_model(folder, mx::float32);
  models::dequantize(model, mx::float32);
  EXPECT_FALSE(model.is_quantized());
  EXPECT_LT(largest_difference(logits_of(model, 45), logits), kTolerance);
}

TEST_P(QuantizedGolden, IsTheSameWrittenAnew) {
  models::MambaLM model = models::load_model(folder);
  const TemporaryDirectory directory;
  models::save_model(model, directory / "again");
  models::MambaLM again = models::load_model(directory / "again");
  EXPECT_EQ(again.config().quantization, model.config().quantization);
  EXPECT_EQ(again.dtype(), model.dtype());
  const nn::ParameterMap expected = nn::parameters(model);
  const nn::ParameterMap got = nn::parameters(again);
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [path, value] : expected) {
    ASSERT_EQ(got.count(path), 1u) << path;
    EXPECT_EQ(got.at(path).dtype(), value.dtype()) << path;
    EXPECT_TRUE(mx::array_equal(got.at(path), value).item<bool>()) << path;
  }
}

TEST(QuantizedGoldenCases, TellsTheCasesApart) {
  const auto load = [](const char* name) { return models::load_model(golden_folder() / name); };
  const auto bits = [](models::MambaLM model) {
    std::map<std::string, int> out;
    model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
      out[path.substr(path.rfind('.') + 1)] = matrix.quantized ? matrix.quantized->bits : 0;
    });
    return out;
  };
  using Bits = std::map<std::string, int>;
  EXPECT_EQ(bits(load("eight_bits")),
            (Bits{{"embeddings", 8}, {"in_proj", 8}, {"x_proj", 8}, {"dt_proj", 0}, {"out_proj", 8}}));
  EXPECT_EQ(bits(load("four_bits_bfloat16")),
            (Bits{{"embeddings", 4}, {"in_proj", 4}, {"x_proj", 4}, {"dt_proj", 4}, {"out_proj", 4}}));
  EXPECT_EQ(bits(load("mixed_untied")),
            (Bits{{"embeddings", 4}, {"in_proj", 4}, {"x_proj", 0}, {"dt_proj", 4}, {"out_proj", 8}, {"lm_head", 8}}));
  EXPECT_EQ(load("four_bits_bfloat16").dtype(), mx::bfloat16);
  EXPECT_EQ(load("mixed_untied").dtype(), mx::float32);
}

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedGolden, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace mamba
