// Adapters that PEFT wrote, against the logits of PEFT's merged weights: tests/golden/lora/README.md.
#include <gtest/gtest.h>
#include <mlx/io.h>
#include <mlx/ops.h>

#include <filesystem>
#include <string>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/peft.h"
#include "mamba/models/registry.h"
#include "tests/golden/in_pieces.h"

namespace mamba {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using testing::in_pieces;
using testing::largest_difference;

constexpr float kTolerance = 2e-4f;  // absolute, on logits of order 10

const fs::path& golden_folder() {
  static const fs::path folder = fs::path(MAMBA_SOURCE_DIR) / "tests" / "golden";
  return folder;
}

std::vector<std::string> cases() {
  return read_json(golden_folder() / "lora" / "manifest.json").at("cases").get<std::vector<std::string>>();
}

models::MambaLM base_model() {
  return models::load_model(golden_folder() / "models" / "base");
}

class LoraGolden : public ::testing::TestWithParam<std::string> {
 protected:
  // Logits in pieces of `step` tokens.
  mx::array logits_of(const models::MambaLM& model, int step) const { return in_pieces(model, tokens, step); }

  const fs::path folder = golden_folder() / "lora" / GetParam();
  const std::unordered_map<std::string, mx::array> golden =
      mx::load_safetensors((folder / "golden.safetensors").string()).first;
  const mx::array tokens = golden.at("tokens");
  const mx::array logits = golden.at("logits");
};

TEST_P(LoraGolden, LogitsOfOneForwardAndOfSingleTokens) {
  models::MambaLM model = base_model();
  EXPECT_GT(largest_difference(logits_of(model, 41), logits), 0.05f);
  models::load_adapter(model, folder);
  for (const int step : {41, 7, 1}) {
    EXPECT_LT(largest_difference(logits_of(model, step), logits), kTolerance) << "step " << step;
  }
  models::merge_lora(model);
  EXPECT_LT(largest_difference(logits_of(model, 41), logits), kTolerance);
}

TEST_P(LoraGolden, IsTheSameWrittenAnew) {
  models::MambaLM model = base_model();
  const models::LoraConfig config = models::load_adapter(model, folder);
  const TemporaryDirectory directory;
  models::save_adapter(model, config, directory / "adapter");
  models::MambaLM again = base_model();
  models::load_adapter(again, directory / "adapter");
  EXPECT_TRUE(mx::array_equal(logits_of(again, 41), logits_of(model, 41)).item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Cases, LoraGolden, ::testing::ValuesIn(cases()), [](const auto& one) { return one.param; });

}  // namespace
}  // namespace mamba
