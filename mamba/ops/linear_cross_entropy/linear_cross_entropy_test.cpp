#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/error_testing.h"
#include "mamba/base/memory.h"
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear_cross_entropy/exact_testing.h"
#ifndef __APPLE__
#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/targets_testing.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/onednn.h"
#endif

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::bits;
using testing::random_array;
using testing::values;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

mx::array random_targets(mx::Shape shape, int words, uint64_t seed) {
  return mx::astype(mx::random::randint(0, words, std::move(shape), mx::int32, mx::random::key(seed)), mx::int32);
}

// What the gradient of a logit loses, relatively, before it is multiplied: half a unit of bfloat16's last place where
// products are of bfloat16, nothing elsewhere.
double gradient_rounding(const mx::array& x, const mx::array& weight) {
#ifndef __APPLE__
  using linear_detail::Float;
  if (x.dtype() == mx::bfloat16 && weight.dtype() == mx::bfloat16 &&
      linear_detail::multiplies_in_bf16(Float::kBfloat16, Float::kBfloat16)) {
    return 0x1p-8;
  }
#endif
  return 0;
}

::testing::AssertionResult within(const mx::array& got, const std::vector<double>& exact,
                                  const std::vector<double>& bound) {
  const std::vector<float> got_values = values(got);
  const double rounding = got.dtype() == mx::float32 ? 0 : got.dtype() == mx::bfloat16 ? 0x1.02p-8 : 0x1.02p-11;
  if (got_values.size() != exact.size()) {
    return ::testing::AssertionFailure() << got_values.size() << " elements instead of " << exact.size();
  }
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = std::abs(static_cast<double>(got_values[i]) - exact[i]);
    const double allowed = bound[i] + rounding * std::abs(exact[i]) + (rounding > 0 ? 0x1p-25 : 1e-37);
    if (!(error <= allowed)) {
      return ::testing::AssertionFailure() << "element " << i << " is " << got_values[i] << " instead of " << exact[i]
                                           << ": " << error << " > " << allowed;
    }
  }
  return ::testing::AssertionSuccess();
}

using Function = decltype(linear_log_probability);

std::vector<mx::array> gradients_of(Function& f, const mx::array& x, const mx::array& weight, const mx::array& targets,
                                    const mx::array& g) {
  const auto fun = [&](const std::vector<mx::array>& in) { return std::vector{f(in[0], in[1], targets, -100, {})}; };
  return mx::vjp(fun, {x, weight}, {g}).second;
}

void check_case(int tokens, int words, int width, mx::Dtype x_dtype, mx::Dtype w_dtype) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << words << " words, width " << width);
  const mx::array x = random_array({tokens, width}, x_dtype, 1), weight = random_array({words, width}, w_dtype, 2);
  const mx::array targets = random_targets({tokens}, words, 3), g = random_array({tokens}, mx::float32, 4);
  const std::vector<float> target_values = values(targets);
  const testing::ExactLogProbability exact = testing::exact_log_probability(
      values(x), values(weight), std::vector<int>(target_values.begin(), target_values.end()), values(g),
      static_cast<size_t>(width), gradient_rounding(x, weight));
  const mx::array got = linear_log_probability(x, weight, targets);
  ASSERT_EQ(got.shape(), (mx::Shape{tokens}));
  ASSERT_EQ(got.dtype(), mx::float32);
  EXPECT_TRUE(within(got, exact.log_probability, exact.log_probability_bound));
  const std::vector<mx::array> gradients = gradients_of(linear_log_probability, x, weight, targets, g);
  ASSERT_EQ(gradients[0].dtype(), x_dtype);
  ASSERT_EQ(gradients[1].dtype(), w_dtype);
  EXPECT_TRUE(within(gradients[0], exact.dx, exact.dx_bound));
  EXPECT_TRUE(within(gradients[1], exact.dweight, exact.dweight_bound));
}

void check_cases() {
  for (const auto& [tokens, words, width] : {std::tuple{1, 1, 1},
                                             {1, 2, 3},
                                             {2, 17, 1},
                                             {7, 100, 31},
                                             {33, 2048, 5},
                                             {3, 2049, 16},
                                             {17, 5000, 7},
                                             {600, 33, 10},
                                             {520, 2100, 3}}) {
    check_case(tokens, words, width, mx::float32, mx::float32);
  }
}

TEST(LinearCrossEntropy, EqualsFloat64WithItsGradients) {
  check_cases();
}

TEST(LinearCrossEntropy, TakesEveryPairOfDtypes) {
  for (const mx::Dtype x : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype w : {mx::float32, mx::bfloat16, mx::float16}) {
      check_case(19, 70, 33, x, w);
      check_case(515, 21, 3, x, w);
    }
  }
}

TEST(LinearCrossEntropy, EqualsTheReference) {
  const mx::array x = random_array({3, 40, 24}, mx::float32, 5), weight = random_array({2500, 24}, mx::float32, 6);
  mx::array targets = random_targets({3, 40}, 2500, 7);
  targets = mx::slice_update(targets, mx::full({1, 11}, -100, mx::int32), mx::Shape{1, 0}, mx::Shape{2, 11});
  const mx::array g = random_array({3, 40}, mx::float32, 8);
  EXPECT_TRUE(mx::allclose(linear_log_probability(x, weight, targets),
                           linear_log_probability_reference(x, weight, targets), 1e-5, 1e-5)
                  .item<bool>());
  const std::vector<mx::array> expected = gradients_of(linear_log_probability_reference, x, weight, targets, g);
  const std::vector<mx::array> got = gradients_of(linear_log_probability, x, weight, targets, g);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(mx::allclose(got[i], expected[i], 1e-5, 1e-5).item<bool>());
  }
}

TEST(LinearCrossEntropy, LeavesOutIgnoredTokensWhateverTheyHold) {
  constexpr int kWidth = 20, kWords = 50;
  const mx::array weight = random_array({kWords, kWidth}, mx::float32, 10);
  const mx::array all = random_array({9, kWidth}, mx::float32, 11), g = random_array({9}, mx::float32, 12);
  const mx::array targets = mx::array({3, -100, 49, 0, -100, 7, -100, 7, 12}, {9});
  const std::vector<int> kept = {0, 2, 3, 5, 7, 8};
  const mx::array at(kept.begin(), {6}, mx::int32);
  const mx::array x = mx::where(mx::expand_dims(mx::equal(targets, mx::array(-100)), 1), mx::array(kNan), all);
  const mx::array got = linear_log_probability(x, weight, targets);
  EXPECT_EQ(bits(mx::take(got, at, 0)),
            bits(linear_log_probability(mx::take(all, at, 0), weight, mx::take(targets, at))));
  const std::vector<float> got_values = values(got);
  for (const size_t ignored : {1, 4, 6}) {
    EXPECT_EQ(got_values[ignored], 0.0f);
  }
  const std::vector<mx::array> gradients = gradients_of(linear_log_probability, x, weight, targets, g);
  const std::vector<mx::array> alone =
      gradients_of(linear_log_probability, mx::take(all, at, 0), weight, mx::take(targets, at), mx::take(g, at));
  EXPECT_EQ(bits(mx::take(gradients[0], at, 0)), bits(alone[0]));
  EXPECT_EQ(bits(gradients[1]), bits(alone[1]));
  EXPECT_EQ(bits(mx::take(gradients[0], mx::array({1, 4, 6}, {3}), 0)),
            std::vector<uint8_t>(3 * kWidth * sizeof(float), 0));

  const mx::array none = mx::full({9}, -100, mx::int32);
  EXPECT_EQ(values(linear_log_probability(x, weight, none)), std::vector<float>(9, 0.0f));
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const std::vector<mx::array> nothing =
        gradients_of(linear_log_probability, mx::astype(x, dtype), mx::astype(weight, dtype), none, g);
    EXPECT_EQ(bits(nothing[0]), std::vector<uint8_t>(nothing[0].nbytes(), 0));
    EXPECT_EQ(bits(nothing[1]), std::vector<uint8_t>(nothing[1].nbytes(), 0));
  }
}

TEST(LinearCrossEntropy, GivesNanAndNoGradientForUnknownTokens) {
  const mx::array x = random_array({4, 5}, mx::float32, 13), weight = random_array({6, 5}, mx::float32, 14);
  const mx::array targets = mx::array({6, -1, 5, 2147483647}, {4});
  const std::vector<float> got = values(linear_log_probability(x, weight, targets));
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[1]) && std::isnan(got[3]));
  EXPECT_TRUE(std::isfinite(got[2]));
  const std::vector<mx::array> gradients = gradients_of(linear_log_probability, x, weight, targets, mx::ones({4}));
  const std::vector<mx::array> alone =
      gradients_of(linear_log_probability, mx::slice(x, {2, 0}, {3, 5}), weight, mx::array({5}, {1}), mx::ones({1}));
  EXPECT_EQ(bits(gradients[1]), bits(alone[1]));
}

TEST(LinearCrossEntropy, WeighsTokens) {
  const mx::array x = random_array({2, 3, 8}, mx::float32, 15), weight = random_array({11, 8}, mx::float32, 16);
  const mx::array targets = random_targets({2, 3}, 11, 17);
  const mx::array weights = mx::array({1.0f, 0.0f, 0.5f, 0.0f, 2.0f, 1.0f}, {2, 3});
  const mx::array nan = mx::where(mx::expand_dims(mx::equal(weights, mx::array(0.0f)), 2), mx::array(kNan), x);
  const mx::array expected = mx::negative(mx::multiply(weights, linear_log_probability_reference(x, weight, targets)));
  EXPECT_TRUE(mx::allclose(linear_cross_entropy(nan, weight, targets, {.weights = weights}), expected, 1e-5, 1e-6)
                  .item<bool>());
  const auto loss = [&](const mx::array& w) {
    return mx::sum(linear_cross_entropy(nan, w, targets, {.weights = weights}));
  };
  const auto reference_loss = [&](const mx::array& w) {
    return mx::negative(mx::sum(mx::multiply(weights, linear_log_probability_reference(x, w, targets))));
  };
  EXPECT_TRUE(mx::allclose(mx::grad(loss)(weight), mx::grad(reference_loss)(weight), 1e-5, 1e-6).item<bool>());
  EXPECT_TRUE(mx::allclose(linear_cross_entropy(x, weight, targets),
                           mx::negative(linear_log_probability_reference(x, weight, targets)), 1e-5, 1e-6)
                  .item<bool>());
}

TEST(LinearCrossEntropy, HoldsForLargeLogits) {
  const mx::array weight = mx::array({1.0f, -1.0f, 0.0f, 0.999f}, {4, 1});
  const mx::array x = mx::array({30000.0f, -30000.0f, 88.0f, 1e-30f, 100.0f}, {5, 1});
  const mx::array targets = mx::array({1, 1, 0, 2, 3}, {5});
  const std::vector<float> got = values(linear_log_probability(x, weight, targets));
  EXPECT_FLOAT_EQ(got[0], -60000.0f);
  EXPECT_FLOAT_EQ(got[1], 0.0f);
  EXPECT_NEAR(got[2], -std::log1p(std::exp(-0.088)), 1e-5);
  EXPECT_FLOAT_EQ(got[3], -std::log(4.0f));
  EXPECT_NEAR(got[4], -0.1 - std::log1p(std::exp(-0.1)), 1e-5);
}

TEST(LinearCrossEntropy, ReadsSlicesInPlace) {
  const mx::array wide = random_array({2, 30, 40}, mx::float32, 18), targets = random_targets({2, 30}, 90, 19);
  const mx::array weight = random_array({90, 17}, mx::bfloat16, 20), g = random_array({2, 30}, mx::float32, 21);
  const mx::array slice = mx::slice(wide, {0, 0, 5}, {2, 30, 22});
  const mx::array copy = mx::contiguous(slice);
  EXPECT_EQ(bits(linear_log_probability(slice, weight, targets)), bits(linear_log_probability(copy, weight, targets)));
  const std::vector<mx::array> sliced = gradients_of(linear_log_probability, slice, weight, targets, g);
  const std::vector<mx::array> copied = gradients_of(linear_log_probability, copy, weight, targets, g);
  EXPECT_EQ(bits(sliced[0]), bits(copied[0]));
  EXPECT_EQ(bits(sliced[1]), bits(copied[1]));
}

void check_threads_and_neighbours() {
  const mx::array x = random_array({530, 30}, mx::float32, 22), weight = random_array({2060, 30}, mx::float32, 23);
  const mx::array targets = random_targets({530}, 2060, 24), g = random_array({530}, mx::float32, 25);
  set_num_threads(1);
  const std::vector<uint8_t> forward = bits(linear_log_probability(x, weight, targets));
  const std::vector<mx::array> gradients = gradients_of(linear_log_probability, x, weight, targets, g);
  const std::vector<uint8_t> dx = bits(gradients[0]), dweight = bits(gradients[1]);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(bits(linear_log_probability(x, weight, targets)), forward);
    const std::vector<mx::array> again = gradients_of(linear_log_probability, x, weight, targets, g);
    EXPECT_EQ(bits(again[0]), dx);
    EXPECT_EQ(bits(again[1]), dweight);
  }
  set_num_threads(0);
  for (const int token : {0, 300, 529}) {
    const std::vector<uint8_t> alone = bits(linear_log_probability(mx::slice(x, {token, 0}, {token + 1, 30}), weight,
                                                                   mx::slice(targets, {token}, {token + 1})));
    EXPECT_EQ(alone, std::vector<uint8_t>(forward.begin() + 4 * token, forward.begin() + 4 * token + 4));
  }
}

TEST(LinearCrossEntropy, DependsOnNeitherThreadsNorNeighbours) {
  check_threads_and_neighbours();
}

TEST(LinearCrossEntropy, NeverHoldsTheLogits) {
#ifdef MAMBA_SANITIZED
  GTEST_SKIP() << "a sanitizer's own memory would be counted";
#endif
  constexpr int kTokens = 6000, kWords = 20000, kWidth = 8;  // logits: 480 MB
  const mx::array x = random_array({kTokens, kWidth}, mx::float32, 26);
  const mx::array weight = random_array({kWords, kWidth}, mx::float32, 27);
  const mx::array targets = random_targets({kTokens}, kWords, 28);
  mx::eval(x, weight, targets);
  const uint64_t before = peak_memory_bytes();
  const auto loss = [&](const std::vector<mx::array>& in) {
    return mx::mean(linear_cross_entropy(in[0], in[1], targets));
  };
  const auto [value, gradients] = mx::value_and_grad(loss, {0, 1})({x, weight});
  mx::eval(gradients);
  EXPECT_NEAR(mx::array(value).item<float>(), std::log(20000.0), 1.0);
  EXPECT_LT(peak_memory_bytes() - before, uint64_t{96} << 20);
}

TEST(LinearCrossEntropy, SumsOverBlocksOfTokens) {
  check_case(900, 40000, 2, mx::float32, mx::float32);
  check_case(70, 600000, 1, mx::float32, mx::bfloat16);
}

TEST(LinearCrossEntropy, GivesLossesAndGradientsInOnePass) {
  const mx::array x = random_array({2, 9, 12}, mx::float32, 34), targets = random_targets({2, 9}, 31, 35);
  const mx::array some = mx::where(mx::equal(targets, mx::array(7)), mx::array(-1), targets);
  const mx::array weights = mx::maximum(random_array({2, 9}, mx::float32, 36), mx::array(0.0f));
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const mx::array weight = random_array({31, 12}, dtype, 37);
    for (const LinearCrossEntropyOptions& options :
         {LinearCrossEntropyOptions{}, {.ignore_index = -1}, {.ignore_index = -1, .weights = weights}}) {
      const mx::array& t = options.ignore_index == -1 ? some : targets;
      const auto loss = [&](const std::vector<mx::array>& in) {
        return mx::multiply(mx::array(0.37f), mx::sum(linear_cross_entropy(in[0], in[1], t, options)));
      };
      const std::vector<mx::array> expected = mx::value_and_grad(loss, {0, 1})({x, weight}).second;
      const LinearCrossEntropyGradients got = linear_cross_entropy_gradients(x, weight, t, 0.37f, true, options);
      EXPECT_EQ(bits(got.losses), bits(linear_cross_entropy(x, weight, t, options)));
      EXPECT_EQ(bits(got.x), bits(expected[0]));
      EXPECT_EQ(bits(*got.weight), bits(expected[1]));
      const LinearCrossEntropyGradients of_x = linear_cross_entropy_gradients(x, weight, t, 0.37f, false, options);
      EXPECT_EQ(bits(of_x.x), bits(got.x));
      EXPECT_FALSE(of_x.weight.has_value());
    }
    // A scale of 0 leaves the losses.
    const LinearCrossEntropyGradients still = linear_cross_entropy_gradients(x, weight, some, 0, true);
    EXPECT_EQ(bits(still.losses), bits(linear_cross_entropy(x, weight, some)));
    EXPECT_EQ(bits(*still.weight), std::vector<uint8_t>(still.weight->nbytes(), 0));
  }
}

TEST(LinearCrossEntropy, TakesOneTokenOrNone) {
  const mx::array weight = random_array({7, 3}, mx::float32, 29);
  mx::array one = linear_log_probability(random_array({3}, mx::float32, 30), weight, mx::array(5));
  EXPECT_EQ(one.shape(), mx::Shape{});
  EXPECT_LT(one.item<float>(), 0.0f);
  EXPECT_EQ(linear_log_probability(mx::zeros({2, 0, 3}), weight, mx::zeros({2, 0}, mx::int32)).shape(),
            (mx::Shape{2, 0}));
  const std::vector<mx::array> gradients =
      gradients_of(linear_log_probability, mx::zeros({0, 3}), weight, mx::zeros({0}, mx::int32), mx::zeros({0}));
  EXPECT_EQ(bits(gradients[1]), std::vector<uint8_t>(7 * 3 * sizeof(float), 0));
}

TEST(LinearCrossEntropy, GivesTheGradientOfOneArgumentAlone) {
  const mx::array x = random_array({5, 6}, mx::float32, 31), weight = random_array({8, 6}, mx::float32, 32);
  const mx::array targets = random_targets({5}, 8, 33);
  const std::vector<mx::array> both = gradients_of(linear_log_probability, x, weight, targets, mx::ones({5}));
  const auto of_x = [&](const mx::array& a) { return mx::sum(linear_log_probability(a, weight, targets)); };
  const auto of_weight = [&](const mx::array& a) { return mx::sum(linear_log_probability(x, a, targets)); };
  EXPECT_EQ(bits(mx::grad(of_x)(x)), bits(both[0]));
  EXPECT_EQ(bits(mx::grad(of_weight)(weight)), bits(both[1]));
}

TEST(LinearCrossEntropy, RefusesWhatDoesNotFit) {
  const mx::array x = mx::zeros({2, 3, 4}), weight = mx::zeros({5, 4}), targets = mx::zeros({2, 3}, mx::int32);
  EXPECT_EQ(message_of([&] {
              linear_log_probability(x, mx::zeros({5, 3}), targets);
            }),
            "[linear_cross_entropy] weight must be (-1, 4) but got (5, 3)");
  EXPECT_EQ(message_of([&] {
              linear_log_probability(x, mx::zeros({0, 4}), targets);
            }),
            "[linear_cross_entropy] weight must have a row for each token but is (0, 4)");
  EXPECT_EQ(message_of([&] {
              linear_log_probability(x, weight, mx::zeros({2, 4}, mx::int32));
            }),
            "[linear_cross_entropy] targets must be (2, 3) but got (2, 4)");
  EXPECT_EQ(message_of([&] {
              linear_log_probability(x, weight, mx::zeros({2, 3}));
            }),
            "[linear_cross_entropy] targets must be int32");
  EXPECT_EQ(message_of([&] { linear_cross_entropy(x, weight, targets, {.weights = mx::zeros({3})}); }),
            "[linear_cross_entropy] weights must be (2, 3) but got (3,)");
  EXPECT_EQ(message_of([&] { linear_cross_entropy(x, weight, targets, {.weights = targets}); }),
            "[linear_cross_entropy] weights must be float32");
  const auto first =
      mx::grad([&](const mx::array& a) { return mx::sum(mx::square(linear_log_probability(a, weight, targets))); });
  const auto second = mx::grad([&](const mx::array& a) { return mx::sum(first(a)); });
  EXPECT_EQ(message_of([&] { second(x); }), "[linear_cross_entropy] its gradients cannot be differentiated again");
}

#ifndef __APPLE__

TEST(LinearCrossEntropyByOnednn, HoldsWhatTheOtherKernelsHold) {
  linear_detail::set_always_onednn(true);
  check_cases();
  linear_detail::set_always_onednn(false);
}

TEST(LinearCrossEntropyByTiles, HoldsWhatTheOtherKernelsHold) {
  linear_detail::amx::set_emulated(!cpu::has_tiles());
  check_cases();
  linear_detail::amx::set_emulated(false);
}

TEST(LinearCrossEntropyTargets, AllHoldTheSame) {
  testing::on_each_target([] {
    check_cases();
    check_threads_and_neighbours();
  });
}

#endif

}  // namespace
}  // namespace mamba::ops
