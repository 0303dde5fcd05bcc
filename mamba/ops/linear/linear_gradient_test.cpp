#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <optional>
#include <tuple>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/error_testing.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear/linear_testing.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::bits;
using testing::random_array;

TEST(LinearGradient, ReachesTheLowRankTerm) {
  const mx::array spans = mx::array({0, 40, 3, 9, 17, 17, 39, 40}, {4, 2});
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const mx::array x = random_array({4, 40, 50}, dtype, 53), weight = random_array({37, 50}, dtype, 54);
    const mx::array u = random_array({4, 40, 8}, mx::float32, 55), V = random_array({37, 8}, mx::float32, 56);
    const mx::array bias = random_array({37}, mx::float32, 57), dy = random_array({4, 40, 37}, dtype, 58);
    for (const auto& [has_bias, has_spans] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
      const std::optional<mx::array> some_spans = has_spans ? std::optional(spans) : std::nullopt;
      const bool with_bias = has_bias;
      const auto run = [&](decltype(linear)& f) {
        const auto fun = [&](const std::vector<mx::array>& in) {
          const LinearOptions options{.spans = some_spans, .low_rank = LowRankTerm{in[2], in[3]}};
          return std::vector{f(in[0], in[1], with_bias ? std::optional(in[4]) : std::nullopt, options, {})};
        };
        auto [y, gradients] = mx::vjp(fun, {x, weight, u, V, bias}, {dy});
        gradients.push_back(y[0]);
        return gradients;
      };
      const std::vector<mx::array> got = run(linear);
      const std::vector<mx::array> expected = run(linear_reference);
      // Both round once to the result's dtype, the reference its sums in another order.
      const double tolerance = dtype == mx::float32 ? 1e-5 : 0x1p-7;
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(mx::allclose(got[i], expected[i], tolerance, tolerance).item<bool>()) << "array " << i;
      }
    }
    // A sequence's bits do not depend on what is around it.
    const mx::array y = linear(x, weight, bias, {.spans = spans, .low_rank = LowRankTerm{u, V}});
    for (const auto& [b, first, last] : {std::tuple{0, 0, 40}, {1, 3, 9}}) {
      const LowRankTerm own{mx::slice(u, {b, first, 0}, {b + 1, last, 8}), V};
      const mx::array alone = linear(mx::slice(x, {b, first, 0}, {b + 1, last, 50}), weight, bias, {.low_rank = own});
      EXPECT_EQ(bits(mx::slice(y, {b, first, 0}, {b + 1, last, 37})), bits(alone));
    }
  }
}

TEST(LinearGradient, EqualsFloat64Sums) {
  testing::check_gradients();
}

TEST(LinearGradient, KeepsToTheSpansAndEqualsTheReferences) {
  testing::check_gradients_with_spans();
}

TEST(LinearGradient, IsTheSameForAnyThreads) {
  testing::check_gradients_for_any_threads();
}

TEST(LinearGradient, OfOneArgumentAlone) {
  const mx::array x = random_array({3, 4}, mx::float32, 34), weight = random_array({5, 4}, mx::float32, 35);
  const auto sum = [](const mx::array& y) { return mx::sum(y); };
  const mx::array dx = mx::grad([&](const mx::array& a) { return sum(linear(a, weight)); })(x);
  EXPECT_TRUE(mx::allclose(dx, mx::broadcast_to(mx::sum(weight, 0), {3, 4})).item<bool>());
  const mx::array dw = mx::grad([&](const mx::array& a) { return sum(linear(x, a)); })(weight);
  EXPECT_TRUE(mx::allclose(dw, mx::broadcast_to(mx::sum(x, 0), {5, 4})).item<bool>());
}

TEST(LinearGradient, SaysThatItIsNotDifferentiable) {
  const mx::array x = random_array({3, 4}, mx::float32, 36), weight = random_array({5, 4}, mx::float32, 37);
  const auto first = mx::grad([&](const mx::array& a) { return mx::sum(mx::square(linear(a, weight))); });
  const auto second = mx::grad([&](const mx::array& a) { return mx::sum(first(a)); });
  EXPECT_EQ(message_of([&] { second(x); }), "[linear] the gradients of linear cannot be differentiated again");
}

}  // namespace
}  // namespace mamba::ops
