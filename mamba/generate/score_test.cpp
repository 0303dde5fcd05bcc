#include "mamba/generate/score.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "mamba/generate/sampler.h"
#include "mamba/models/initialize.h"

namespace mamba::generate {
namespace {

namespace mx = mlx::core;

models::MambaLM narrow_model() {
  models::Config config;
  config.vocab_size = 31;
  config.d_model = 12;
  config.n_layer = 2;
  config.initializer_range = 1.0;
  models::MambaLM model(config);
  models::initialize(model, 9);
  model.prepare();
  return model;
}

TEST(Score, EqualsTheLogitsOfOneForwardAcrossChunks) {
  const models::MambaLM model = narrow_model();
  std::vector<int32_t> tokens;
  for (int i = 0; i < models::MambaLM::kChunk + 150; ++i) {
    tokens.push_back((i * 7 + i / 5) % 31);
  }
  const auto count = static_cast<int>(tokens.size());
  models::State state = model.initial_state();
  mx::array logits = model.forward(mx::array(tokens.begin(), {1, count}, mx::int32), state);
  mx::eval(logits);
  std::vector<float> seen;
  const Score got = score(model, tokens, [&](int64_t first, int64_t rows, std::span<const float> values) {
    EXPECT_EQ(first * 31, static_cast<int64_t>(seen.size()));
    EXPECT_EQ(static_cast<int64_t>(values.size()), rows * 31);
    seen.insert(seen.end(), values.begin(), values.end());
  });
  ASSERT_EQ(seen.size(), logits.size());
  ASSERT_EQ(got.logprobs.size(), tokens.size() - 1);
  double sum = 0;
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const std::span<const float> row(logits.data<float>() + i * 31, 31);
    const double expected = log_probability(row, tokens[i + 1]);
    EXPECT_NEAR(got.logprobs[i], expected, 1e-5);
    sum -= got.logprobs[i];
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    ASSERT_NEAR(seen[i], logits.data<float>()[i], 1e-5);
  }
  EXPECT_DOUBLE_EQ(got.mean_loss, sum / static_cast<double>(tokens.size() - 1));
  EXPECT_DOUBLE_EQ(got.perplexity, std::exp(got.mean_loss));
}

TEST(Score, NeedsTwoTokensOfTheVocabulary) {
  const models::MambaLM model = narrow_model();
  EXPECT_THROW(score(model, std::vector<int32_t>{}), UsageError);
  EXPECT_THROW(score(model, std::vector<int32_t>{1}), UsageError);
  EXPECT_THROW(score(model, std::vector<int32_t>{1, 31}), UsageError);
}

}  // namespace
}  // namespace mamba::generate
