// The kernel as host C++ against the reference, and both against what each setting means.
#include "mamba/ops/choose_token/gpu.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <map>
#include <vector>

#include "mamba/ops/choose_token/gpu_host.h"
#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using Settings = std::vector<float>;

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

constexpr int kThreads = 64;

ChooseTokenOutputs kernel(const ChooseTokenInputs& in) {
  return token::gpu_choose(in, cpu(), kThreads);
}

ChooseTokenOutputs reference(const ChooseTokenInputs& in) {
  return choose_token_reference(in, cpu(), kThreads);
}

struct Chosen {
  std::vector<int> tokens;
  std::vector<float> logprobs;
  std::optional<mx::array> seen;
};

Chosen read(const ChooseTokenOutputs& out) {
  const mx::array tokens = mx::contiguous(mx::slice(out.chosen, {0, 0}, {out.chosen.shape(0), 1}));
  const mx::array logprobs =
      mx::contiguous(mx::view(mx::contiguous(mx::slice(out.chosen, {0, 1}, {out.chosen.shape(0), 2})), mx::float32));
  mx::eval(tokens, logprobs);
  return {{tokens.data<int>(), tokens.data<int>() + tokens.size()},
          {logprobs.data<float>(), logprobs.data<float>() + logprobs.size()},
          out.seen};
}

// The same row `settings.size() / kTokenSettings` times.
ChooseTokenInputs inputs(const mx::array& logits, const Settings& settings, const std::vector<float>& draws) {
  const auto rows = static_cast<int>(draws.size());
  return {.logits = mx::contiguous(mx::broadcast_to(logits, {rows, logits.shape(-1)})),
          .settings = mx::contiguous(mx::broadcast_to(
              mx::array(settings.begin(), {static_cast<int>(settings.size()) / kTokenSettings, kTokenSettings}),
              {rows, kTokenSettings})),
          .draws = mx::array(draws.begin(), {rows}),
          .seen = std::nullopt};
}

// Draws spread over [0, 1).
std::vector<float> spread(int count) {
  std::vector<float> out;
  for (int i = 0; i < count; ++i) {
    out.push_back((static_cast<float>(i) + 0.5f) / static_cast<float>(count));
  }
  return out;
}

class ChooseToken : public ::testing::Test {
 protected:
  ChooseToken() { token::use_host_kernels(); }
};

TEST_F(ChooseToken, KernelAndReferenceChooseTheSame) {
  const std::vector<Settings> all = {{0, 0, 1, 0, 1},       {1, 0, 1, 0, 1},    {0.7f, 5, 1, 0, 1},
                                     {1.3f, 0, 0.8f, 0, 1}, {1, 0, 1, 0.1f, 1}, {0.9f, 40, 0.95f, 0.02f, 1.3f},
                                     {0, 0, 1, 0, 1.5f}};
  for (const int words : {1, 31, 65, 700}) {
    for (const Settings& settings : all) {
      ChooseTokenInputs in = inputs(normal({1, words}, 5, 2.0f), settings, spread(3));
      if (settings[kRepetitionPenalty] != 1) {
        in.seen = mx::astype(mx::greater(normal({3, words}, 9), mx::array(0.0f)), mx::uint8);
      }
      const Chosen got = read(kernel(in));
      const Chosen want = read(reference(in));
      EXPECT_EQ(got.tokens, want.tokens) << words << " " << settings[1] << " " << settings[2];
      for (size_t i = 0; i < got.tokens.size(); ++i) {
        EXPECT_NEAR(got.logprobs[i], want.logprobs[i], 2e-6 * (1 + std::fabs(want.logprobs[i])));
      }
      ASSERT_EQ(got.seen.has_value(), in.seen.has_value());
      if (in.seen) {
        EXPECT_TRUE(mx::array_equal(*got.seen, *want.seen).item<bool>());
      }
    }
  }
}

// How often 40 evenly spread draws choose each word.
std::map<int, int> counts(const std::vector<float>& probabilities, const Settings& settings) {
  std::vector<float> logits;
  for (const float p : probabilities) {
    logits.push_back(std::log(p));
  }
  const ChooseTokenInputs in =
      inputs(mx::array(logits.begin(), {1, static_cast<int>(logits.size())}), settings, spread(40));
  std::map<int, int> out;
  for (const int token : read(kernel(in)).tokens) {
    ++out[token];
  }
  EXPECT_EQ(read(reference(in)).tokens, read(kernel(in)).tokens);
  return out;
}

TEST_F(ChooseToken, DrawsFollowTheDistribution) {
  const std::vector<float> p = {0.15f, 0.5f, 0.05f, 0.3f};
  using Counts = std::map<int, int>;
  EXPECT_EQ(counts(p, {1, 0, 1, 0, 1}), (Counts{{0, 6}, {1, 20}, {2, 2}, {3, 12}}));
  EXPECT_EQ(counts(p, {1, 2, 1, 0, 1}), (Counts{{1, 25}, {3, 15}}));
  EXPECT_EQ(counts(p, {1, 0, 0.7f, 0, 1}), (Counts{{1, 25}, {3, 15}}));
  EXPECT_EQ(counts(p, {1, 0, 0.4f, 0, 1}), (Counts{{1, 40}}));
  EXPECT_EQ(counts(p, {1, 0, 1e-6f, 0, 1}), (Counts{{1, 40}}));
  EXPECT_EQ(counts(p, {1, 0, 1, 0.5f, 1}), (Counts{{1, 25}, {3, 15}}));
  EXPECT_EQ(counts(p, {1, 3, 0.9f, 0, 1}), (Counts{{0, 6}, {1, 21}, {3, 13}}));
}

TEST_F(ChooseToken, TiesStayInTopKAndGoByIdInTopP) {
  const std::vector<float> p = {0.1f, 0.2f, 0.2f, 0.2f, 0.2f, 0.1f};
  EXPECT_EQ(counts(p, {1, 2, 1, 0, 1}).size(), 4u);
  const std::map<int, int> two = counts(p, {1, 0, 0.3f, 0, 1});
  EXPECT_EQ(two, (std::map<int, int>{{1, 20}, {2, 20}}));
  EXPECT_EQ(counts(p, {1, 0, 0.7f, 0, 1}).size(), 4u);
  EXPECT_EQ(counts(p, {1, 0, 0.85f, 0, 1}).size(), 5u);
}

TEST_F(ChooseToken, GreedyTakesTheFirstOfTheLargest) {
  const ChooseTokenInputs in =
      inputs(mx::array({1.0f, 3.0f, 2.0f, -1.0f, 3.0f, 0.0f}, {1, 6}), {0, 0, 1, 0, 1}, {0.5f});
  EXPECT_EQ(read(kernel(in)).tokens, std::vector{1});
}

TEST_F(ChooseToken, RowsHaveTheirOwnSettings) {
  ChooseTokenInputs in = inputs(normal({1, 500}, 3), {0, 0, 1, 0, 1, 1, 3, 1, 0, 1, 1, 0, 0.5f, 0, 1}, spread(3));
  in.logits = normal({3, 500}, 4, 3.0f);
  EXPECT_EQ(read(kernel(in)).tokens, read(reference(in)).tokens);
}

TEST_F(ChooseToken, BadInputsAreNamed) {
  ChooseTokenInputs in = inputs(normal({1, 5}, 3), {0, 0, 1, 0, 1}, {0.5f});
  in.draws = mx::zeros({2});
  EXPECT_NE(message_of([&] { choose_token(in); }).find("draws"), std::string::npos);
}

}  // namespace
}  // namespace mamba::ops
