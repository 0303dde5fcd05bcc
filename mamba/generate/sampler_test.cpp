#include "mamba/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "mamba/base/error.h"
#include "mamba/base/json.h"

namespace mamba::generate {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, -1.0f, 3.0f, 0.0f};

std::map<int32_t, double> kept(const SamplingParams& params, const std::vector<float>& logits = kLogits,
                               const std::vector<int32_t>& history = {}) {
  std::map<int32_t, double> out;
  double sum = 0;
  double previous = 1;
  for (const auto& [token, probability] : Sampler(params).distribution(logits, history)) {
    EXPECT_LE(probability, previous);
    previous = probability;
    sum += probability;
    out.emplace(token, probability);
  }
  EXPECT_NEAR(sum, 1, 1e-12);
  return out;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(kLogits, {}), 1);
  EXPECT_EQ(Sampler({.temperature = 0, .repetition_penalty = 2}).sample(kLogits, std::vector<int32_t>{1}), 4);
}

TEST(Sampler, TopKKeepsTiesOfTheLastPlace) {
  EXPECT_EQ(kept({.top_k = 1}).size(), 2u);  // both 3.0
  EXPECT_EQ(kept({.top_k = 3}).size(), 3u);
  EXPECT_EQ(kept({.top_k = 100}).size(), 6u);
}

TEST(Sampler, TopPKeepsTheSmallestSufficientSet) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  EXPECT_EQ(kept({.top_p = 0.4f}, logits).size(), 1u);
  EXPECT_EQ(kept({.top_p = 0.7f}, logits).size(), 2u);
  EXPECT_EQ(kept({.top_p = 0.9f}, logits).size(), 3u);
  EXPECT_EQ(kept({.top_p = 0.99f}, logits).size(), 4u);
  EXPECT_EQ(kept({.top_p = 1e-6f}, logits).size(), 1u);
  EXPECT_NEAR(kept({.top_p = 0.7f}, logits).at(0), 0.625, 1e-6);
}

TEST(Sampler, MinPIsRelativeToTheMostProbable) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  EXPECT_EQ(kept({.min_p = 0.2f}, logits).size(), 3u);
  EXPECT_EQ(kept({.min_p = 0.7f}, logits).size(), 1u);
  EXPECT_EQ(kept({.min_p = 1.0f}, logits).size(), 1u);
}

TEST(Sampler, RepetitionPenaltyCountsATokenOnce) {
  const auto once = kept({.repetition_penalty = 1.5f}, kLogits, {1, 3});
  const auto often = kept({.repetition_penalty = 1.5f}, kLogits, {1, 3, 1, 1, 3});
  EXPECT_EQ(once, often);
  EXPECT_NEAR(once.at(1) / once.at(4), std::exp(2.0 - 3.0), 1e-6);
  EXPECT_NEAR(once.at(3) / once.at(4), std::exp(-1.5 - 3.0), 1e-6);
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  Sampler sampler({.temperature = 0.7f, .top_k = 4, .seed = 5});
  const auto expected = kept({.temperature = 0.7f, .top_k = 4});
  constexpr int kDraws = 40000;
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[sampler.sample(kLogits, {})];
  }
  EXPECT_EQ(counts.size(), expected.size());
  for (const auto& [token, probability] : expected) {
    EXPECT_NEAR(counts[token] / static_cast<double>(kDraws), probability, 0.015) << token;
  }
}

TEST(Sampler, SeedDecides) {
  const auto draws = [](uint64_t seed) {
    Sampler sampler({.seed = seed});
    std::vector<int32_t> out;
    for (int i = 0; i < 50; ++i) {
      out.push_back(sampler.sample(kLogits, {}));
    }
    return out;
  };
  EXPECT_EQ(draws(1), draws(1));
  EXPECT_NE(draws(1), draws(2));
}

TEST(Sampler, BadParametersAreUsageErrors) {
  EXPECT_THROW(Sampler({.temperature = -1}), UsageError);
  EXPECT_THROW(Sampler({.temperature = std::nanf("")}), UsageError);
  EXPECT_THROW(Sampler({.top_k = -1}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 0}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 1.1f}), UsageError);
  EXPECT_THROW(Sampler({.min_p = -0.1f}), UsageError);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}), UsageError);
}

TEST(Sampler, LogProbabilityIsOfTheUnmodifiedDistribution) {
  double sum = 0;
  for (int32_t token = 0; token < 6; ++token) {
    sum += std::exp(log_probability(kLogits, token));
  }
  EXPECT_NEAR(sum, 1, 1e-12);
  EXPECT_NEAR(log_probability(std::vector<float>{1000.0f, 999.0f}, 1), -1 - std::log1p(std::exp(-1.0)), 1e-9);
}

}  // namespace
}  // namespace mamba::generate
