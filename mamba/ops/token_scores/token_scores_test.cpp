#include "mamba/ops/token_scores/token_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "mamba/base/threads.h"

namespace mamba::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t count, float middle, float spread) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> normal(middle, spread);
  std::vector<float> out(count);
  for (float& logit : out) {
    logit = normal(random);
  }
  return out;
}

TEST(TokenScores, LogSumExpIsThatOfDoubles) {
  for (const size_t count : {1u, 2u, 15u, 16u, 17u, 1023u, 1024u, 1041u, 2047u, 2048u, 2049u, 4099u, 50280u}) {
    for (const auto& [middle, spread] : {std::pair{0.0f, 1e-3f}, {-30.0f, 4.0f}, {700.0f, 20.0f}, {-1e5f, 1e4f}}) {
      const std::vector<float> logits = random_logits(count, middle, spread);
      const double largest = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (const float logit : logits) {
        sum += std::exp(logit - largest);
      }
      EXPECT_NEAR(log_sum_exp(logits), largest + std::log(sum), 1e-6) << count << ' ' << middle;
    }
  }
}

TEST(TokenScores, TheFirstOfTheLargest) {
  for (const size_t count : {1u, 5u, 16u, 31u, 2048u, 2049u, 50280u}) {
    std::vector<float> logits = random_logits(count, 0, 1);
    for (const size_t at : {size_t{0}, count / 2, count - 1}) {
      logits[at] = 99;
      EXPECT_EQ(largest_index(logits),
                static_cast<int64_t>(std::find(logits.begin(), logits.end(), 99.0f) - logits.begin()));
    }
    EXPECT_EQ(largest_index(logits), 0);
  }
}

TEST(TokenScores, NoBitDependsOnThreads) {
  std::vector<float> logits = random_logits(50280, 0, 3);
  logits[31000] = logits[17] = 99;
  const double expected = log_sum_exp(logits);
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(log_sum_exp(logits), expected) << threads;
    EXPECT_EQ(largest_index(logits), 17) << threads;
  }
  set_num_threads(0);
}

TEST(TokenScores, MaskedLogitsAndNaN) {
  std::vector<float> logits(40, -kInfinity);
  EXPECT_EQ(log_sum_exp(logits), -kInfinity);
  EXPECT_EQ(largest_index(logits), 0);
  logits[33] = 2;
  EXPECT_EQ(largest_index(logits), 33);
  EXPECT_NEAR(log_sum_exp(logits), 2, 1e-6);
  logits[3] = std::numeric_limits<float>::quiet_NaN();
  logits[39] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(largest_index(logits), 33);
}

}  // namespace
}  // namespace mamba::ops
