// What quantising costs a real model.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "mamba/base/file.h"
#include "mamba/generate/score.h"
#include "mamba/models/registry.h"
#include "mamba/quant/quantize.h"
#include "mamba/text/tokenizer.h"

namespace mamba {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

// The shipped model was trained on all of the text but its last tenth; this is the first third of that.
TEST(QuantizedPerplexity, OfTheShippedModelOnHeldOutText) {
  const fs::path folder = fs::path(MAMBA_SOURCE_DIR) / "assets/shakespeare";
  const char* data = std::getenv("MAMBA_TEST_DATA");
  const fs::path file = fs::path(data == nullptr ? "" : data) / "tinyshakespeare.txt";
  if (!fs::exists(file)) {
    GTEST_SKIP() << "tinyshakespeare.txt is not at hand (MAMBA_TEST_DATA names its folder)";
  }
  const std::string text = read_file(file);
  const text::Tokenizer tokenizer = text::Tokenizer::from_file(folder / "tokenizer.json");
  const std::vector<int32_t> ids = tokenizer.encode(text.substr(text.size() - text.size() / 10, 40'000));
  const auto perplexity = [&](const quant::Settings* settings, mx::Dtype dtype) {
    models::MambaLM model = models::load_model(folder, dtype);
    if (settings != nullptr) {
      quant::quantize(model, *settings);
    }
    return generate::score(model, ids).perplexity;
  };
  const double floats = perplexity(nullptr, mx::float32);
  const quant::Settings eight{.bits = 8};
  const quant::Settings four{.bits = 4};
  const double change8 = perplexity(&eight, mx::float32) / floats - 1;
  const double change4 = perplexity(&four, mx::float32) / floats - 1;
  const double change8_bfloat16 = perplexity(&eight, mx::bfloat16) / floats - 1;
  std::printf("8 bits %+.4f %%, 4 bits %+.4f %%, 8 bits in bfloat16 %+.4f %%\n", 100 * change8, 100 * change4,
              100 * change8_bfloat16);
  EXPECT_LT(std::abs(change8), 0.005);
  EXPECT_LT(std::abs(change4), 0.04);
  EXPECT_LT(std::abs(change8_bfloat16), 0.01);
}

}  // namespace
}  // namespace mamba
