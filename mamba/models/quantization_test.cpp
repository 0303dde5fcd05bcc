#include "mamba/models/quantization.h"

#include <gtest/gtest.h>

#include "mamba/base/error_testing.h"
#include "mamba/models/config.h"

namespace mamba::models {
namespace {

// A configuration with these fields more.
Config parse_with(const std::string& fields) {
  const std::string text =
      R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1)" + fields + "}";
  return parse_config(parse_json(text, "c.json"), "c.json");
}

std::string quantization_error(const std::string& fields) {
  return message_of<ParseError>([&] { parse_with(fields); });
}

TEST(Quantization, IsReadFromEitherField) {
  EXPECT_FALSE(parse_with("").quantization.has_value());
  EXPECT_FALSE(parse_with(R"(, "quantization": null)").quantization.has_value());
  for (const char* field : {"quantization", "quantization_config"}) {
    const auto q = parse_with(fmt::format(R"(, "{}": {{"group_size": 32, "bits": 4}})", field)).quantization;
    ASSERT_TRUE(q.has_value());
    EXPECT_EQ(q->common, (Quantization{.group_size = 32, .bits = 4}));
    EXPECT_TRUE(q->modules.empty());
    EXPECT_EQ(q->dtype, "float32");
  }
  // The first counts where both are there.
  const auto both = parse_with(R"(, "quantization": {"group_size": 32, "bits": 4},
      "quantization_config": {"quant_method": "awq"})")
                        .quantization;
  EXPECT_EQ(both->common.bits, 4);
}

TEST(Quantization, ModulesHaveEntriesOfTheirOwn) {
  const auto q = parse_with(R"(, "quantization": {"group_size": 64, "bits": 8, "mode": "affine", "lm_head": false,
      "backbone.embeddings": true, "backbone.layers.0.mixer.in_proj": {"group_size": 32, "bits": 4}})")
                     .quantization;
  const std::map<std::string, std::optional<Quantization>> expected = {
      {"lm_head", std::nullopt},
      {"backbone.embeddings", Quantization{.group_size = 64, .bits = 8}},
      {"backbone.layers.0.mixer.in_proj", Quantization{.group_size = 32, .bits = 4}}};
  EXPECT_EQ(q->modules, expected);
}

TEST(Quantization, TakesTheDtypeOfTheWholeModel) {
  const std::string q = R"(, "quantization": {"group_size": 64, "bits": 8})";
  EXPECT_EQ(parse_with(q + R"(, "torch_dtype": "bfloat16")").quantization->dtype, "bfloat16");
  EXPECT_EQ(parse_with(q + R"(, "dtype": "float16")").quantization->dtype, "float16");
  EXPECT_EQ(parse_with(q + R"(, "dtype": "float64")").quantization->dtype, "float32");
}

TEST(Quantization, IsWrittenAsItIsRead) {
  Config config = parse_with("");
  config.quantization = QuantizationConfig{
      .common = {.group_size = 128, .bits = 4},
      .modules = {{"lm_head", std::nullopt}, {"backbone.embeddings", Quantization{.group_size = 32, .bits = 8}}},
      .dtype = "bfloat16"};
  const Json json = hugging_face_config(config, "bfloat16");
  EXPECT_EQ(json.at("quantization"), json.at("quantization_config"));
  EXPECT_EQ(parse_config(json, "again").quantization, config.quantization);
}

TEST(Quantization, RefusesWhatNoKernelHas) {
  const auto refusal = [](const std::string& inside) {
    return quantization_error(R"(, "quantization": {)" + inside + "}");
  };
  EXPECT_EQ(refusal(R"("group_size": 64, "bits": 3)"),
            "c.json: field \"quantization.bits\" must be one of 4, 8 but is 3");
  EXPECT_EQ(refusal(R"("group_size": 48, "bits": 4)"),
            "c.json: field \"quantization.group_size\" must be one of 32, 64, 128 but is 48");
  EXPECT_EQ(refusal(R"("bits": 4)"), "c.json: field \"quantization.group_size\" is missing");
  EXPECT_EQ(refusal(R"("group_size": 32, "bits": 4, "mode": "mxfp4")"),
            "c.json: field \"quantization.mode\" must be \"affine\" but is \"mxfp4\"");
  EXPECT_EQ(refusal(R"("group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 6})"),
            "c.json: field \"quantization.lm_head.bits\" must be one of 4, 8 but is 6");
  EXPECT_EQ(quantization_error(R"(, "quantization": 4)"), "c.json: field \"quantization\" must be an object");
  EXPECT_EQ(quantization_error(R"(, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64})"),
            "c.json: field \"quantization_config.quant_method\" is \"gptq\", which is not supported: weights may be "
            "quantised in MLX's affine format");
}

}  // namespace
}  // namespace mamba::models
