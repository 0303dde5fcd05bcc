#include "mamba/ops/linear/linear.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/linear/exact_testing.h"
#ifndef __APPLE__
#include "mamba/base/error_testing.h"
#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/targets.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/onednn.h"
//
#include <hwy/targets.h>
#endif

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::Exact;
using testing::exact_product;
using testing::transposed;

mx::array random_array(mx::Shape shape, mx::Dtype dtype, uint64_t seed) {
  return mx::astype(mx::random::uniform(-1.0f, 1.0f, std::move(shape), mx::float32, mx::random::key(seed)), dtype);
}

std::vector<float> values(const mx::array& a) {
  mx::array wide = mx::contiguous(mx::astype(a, mx::float32));
  wide.eval();
  return {wide.data<float>(), wide.data<float>() + wide.size()};
}

// The bits of each element, so that -0 and 0, or two NaNs, are told apart.
std::vector<uint8_t> bits(const mx::array& a) {
  mx::array flat = mx::contiguous(a);
  flat.eval();
  return {flat.data<uint8_t>(), flat.data<uint8_t>() + flat.nbytes()};
}

// Half the distance between neighbours, relative to the value.
double unit_roundoff(mx::Dtype dtype) {
  return dtype == mx::float32 ? 0x1p-24 : dtype == mx::bfloat16 ? 0x1p-8 : 0x1p-11;
}

// Every element within the error that k float32 multiply-adds in any order, a few more additions and one rounding to
// `dtype` can make.
::testing::AssertionResult within_bound(const std::vector<float>& got, const Exact& exact, size_t k, mx::Dtype dtype) {
  if (got.size() != exact.sums.size()) {
    return ::testing::AssertionFailure() << got.size() << " elements instead of " << exact.sums.size();
  }
  for (size_t i = 0; i < got.size(); ++i) {
    const double summing = static_cast<double>(k + 2) * 0x1p-24 * exact.magnitudes[i];
    const double rounding = dtype == mx::float32 ? 0 : 1.01 * unit_roundoff(dtype) * std::abs(exact.sums[i]) + 0x1p-25;
    const double error = std::abs(static_cast<double>(got[i]) - exact.sums[i]);
    if (!(error <= summing + rounding + 1e-37)) {
      return ::testing::AssertionFailure() << "element " << i << " is " << got[i] << " instead of " << exact.sums[i]
                                           << ": error " << error << " > " << summing << " + " << rounding;
    }
  }
  return ::testing::AssertionSuccess();
}

void add_bias(Exact& exact, const std::vector<float>& bias) {
  for (size_t i = 0; i < exact.sums.size(); ++i) {
    exact.sums[i] += static_cast<double>(bias[i % bias.size()]);
    exact.magnitudes[i] += std::abs(static_cast<double>(bias[i % bias.size()]));
  }
}

void check_product(int m, int n, int k, mx::Dtype x_dtype, mx::Dtype w_dtype, bool has_bias,
                   std::optional<mx::Dtype> out_dtype = {}) {
  SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << k << " bias=" << has_bias);
  const mx::array x = random_array({m, k}, x_dtype, 1);
  const mx::array weight = random_array({n, k}, w_dtype, 2);
  std::optional<mx::array> bias;
  Exact exact =
      exact_product(values(x), values(weight), static_cast<size_t>(m), static_cast<size_t>(n), static_cast<size_t>(k));
  if (has_bias) {
    bias = random_array({n}, w_dtype, 3);
    add_bias(exact, values(*bias));
  }
  const mx::array y = linear(x, weight, bias, {.out_dtype = out_dtype});
  ASSERT_EQ(y.shape(), (mx::Shape{m, n}));
  ASSERT_EQ(y.dtype(), out_dtype.value_or(x_dtype));
  EXPECT_TRUE(within_bound(values(y), exact, static_cast<size_t>(k), y.dtype()));
}

TEST(Linear, EqualsFloat64SumsOnAwkwardSizes) {
  constexpr int kSizes[] = {1, 2, 3, 7, 15, 16, 17, 31, 100};
  for (const int m : kSizes) {
    for (const int n : kSizes) {
      for (const int k : kSizes) {
        check_product(m, n, k, mx::float32, mx::float32, (m + n + k) % 2 == 0);
        if (::testing::Test::HasFailure()) {
          return;
        }
      }
    }
  }
}

TEST(Linear, TakesEveryPairOfDtypes) {
  for (const mx::Dtype x : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype w : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const auto& [m, n, k] : {std::tuple{1, 1, 1},
                                    {1, 100, 17},
                                    {2, 9, 31},
                                    {3, 26, 100},
                                    {4, 31, 16},
                                    {7, 50, 48},
                                    {17, 7, 3},
                                    {100, 33, 65},
                                    {129, 130, 131}}) {
        check_product(m, n, k, x, w, true);
        check_product(m, n, k, x, w, false, mx::float32);
      }
    }
  }
}

TEST(Linear, TakesShapesOfModels) {
  for (const mx::Dtype w : {mx::float32, mx::bfloat16}) {
    check_product(1, 3072, 768, mx::float32, w, false);
    check_product(5, 80, 1536, mx::float32, w, false);
    check_product(130, 1536, 48, mx::float32, w, true);
    check_product(77, 96, 2048, mx::float32, w, false);
  }
}

TEST(Linear, SumsInSeveralPassesWhenKIsLarge) {
  for (const int k : {2047, 2049, 4096, 5003}) {
    check_product(3, 40, k, mx::float32, mx::float32, true);
    check_product(67, 40, k, mx::float32, mx::bfloat16, true);
    check_product(67, 17, k, mx::bfloat16, mx::float32, true);
  }
}

// More rows than are packed at a time.
TEST(Linear, WorksThroughManyRowsInPieces) {
  check_product(2500, 19, 33, mx::float32, mx::float32, true);
}

TEST(Linear, TakesAnyNumberOfAxes) {
  const mx::array weight = random_array({5, 12}, mx::float32, 4);
  const mx::array x = random_array({2, 3, 4, 12}, mx::float32, 5);
  const mx::array y = linear(x, weight);
  EXPECT_EQ(y.shape(), (mx::Shape{2, 3, 4, 5}));
  EXPECT_EQ(bits(y), bits(linear(mx::reshape(x, {6, 4, 12}), weight)));
  const mx::array vector = mx::reshape(mx::slice(x, {0, 0, 0, 0}, {1, 1, 1, 12}), {12});
  EXPECT_EQ(linear(vector, weight).shape(), (mx::Shape{5}));
  EXPECT_EQ(bits(linear(vector, weight)), bits(mx::slice(y, {0, 0, 0, 0}, {1, 1, 1, 5})));
}

TEST(Linear, GivesEmptyOrBiasForEmptyAxes) {
  EXPECT_EQ(linear(mx::zeros({2, 0, 3}), mx::zeros({4, 3})).shape(), (mx::Shape{2, 0, 4}));
  EXPECT_EQ(linear(mx::zeros({2, 5, 3}), mx::zeros({0, 3})).shape(), (mx::Shape{2, 5, 0}));
  const mx::array bias = mx::array({1.0f, 2.0f});
  for (const int rows : {3, 100}) {
    const std::vector<float> y = values(linear(mx::zeros({rows, 0}), mx::zeros({2, 0}), bias));
    ASSERT_EQ(y.size(), static_cast<size_t>(2 * rows));
    EXPECT_EQ(y[2], 1.0f);
    EXPECT_EQ(y.back(), 2.0f);
  }
}

TEST(Linear, ReadsSlicesInPlaceAndCopiesOtherLayouts) {
  for (const int length : {3, 90}) {
    const mx::array wide = random_array({2, length, 100}, mx::float32, 6);
    const mx::array weight = random_array({21, 37}, mx::bfloat16, 7);
    const mx::array slice = mx::slice(wide, {0, 0, 11}, {2, length, 48});
    const mx::array copied = mx::contiguous(slice);
    EXPECT_EQ(bits(linear(slice, weight)), bits(linear(copied, weight)));
    const mx::array turned = mx::transpose(mx::contiguous(mx::transpose(slice, {2, 1, 0})), {2, 1, 0});
    EXPECT_EQ(bits(linear(turned, weight)), bits(linear(copied, weight)));
    const mx::array broadcast = mx::broadcast_to(mx::slice(slice, {0, 0, 0}, {1, length, 37}), {4, length, 37});
    EXPECT_EQ(bits(linear(broadcast, weight)), bits(linear(mx::contiguous(broadcast), weight)));
    const mx::array weight_slice = mx::slice(mx::pad(weight, {{1, 2}, {3, 4}}), {1, 3}, {22, 40});
    EXPECT_EQ(bits(linear(slice, weight_slice)), bits(linear(copied, weight)));
    const mx::array weight_turned = mx::transpose(mx::contiguous(mx::transpose(weight)));
    EXPECT_EQ(bits(linear(slice, weight_turned)), bits(linear(copied, weight)));
  }
}

TEST(Linear, AgreesWithTheReference) {
  const mx::array spans = mx::array({0, 40, 3, 9, 17, 17}, {3, 2});
  const mx::array x = random_array({3, 40, 50}, mx::bfloat16, 8);
  const mx::array weight = random_array({60, 50}, mx::bfloat16, 9);
  const mx::array bias = random_array({60}, mx::float32, 10);
  const LinearOptions options{.spans = spans, .out_dtype = mx::float32};
  EXPECT_TRUE(mx::allclose(linear(x, weight, bias, options), linear_reference(x, weight, bias, options), 1e-5, 1e-5)
                  .item<bool>());
}

TEST(Linear, RoundsToNearestEvenLikeMlx) {
  // 1 x w for every bfloat16 boundary: halfway points, overflow to infinity, NaN.
  std::vector<float> edges = {1.00390625f, 1.01171875f, 1.0039063f, -1.00390625f, 3.4e38f, -3.4e38f, 1e-40f, 65519.9f,
                              65520.0f,    5.9e-8f,     2.9e-8f,    1e30f,        0.0f,    1024.5f,  1025.5f};
  edges.push_back(std::numeric_limits<float>::infinity());
  edges.push_back(std::numeric_limits<float>::quiet_NaN());
  const auto count = static_cast<int>(edges.size());
  const mx::array weight = mx::array(edges.begin(), {count, 1}, mx::float32);
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    for (const int rows : {1, 70}) {
      const mx::array expected = mx::astype(mx::reshape(weight, {count}), dtype);
      const mx::array y = linear(mx::ones({rows, 1}, dtype), weight);
      const mx::array last = mx::reshape(mx::slice(y, {rows - 1, 0}, {rows, count}), {count});
      EXPECT_TRUE(mx::array_equal(last, expected, true).item<bool>()) << "rows " << rows;
    }
  }
}

// Runs `f` with several thread counts and expects the same bits from each.
template <typename F>
void expect_same_for_any_threads(const F& f) {
  set_num_threads(1);
  const std::vector<uint8_t> one = f();
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(f(), one) << threads << " threads";
  }
  set_num_threads(0);
}

struct ExactCase {
  mx::Dtype x, w;
  int n, k;
};

void check_batches() {
  constexpr int kLength = 150;
  const std::vector<std::pair<int, int>> spans = {{0, 150}, {149, 150}, {20, 52}, {3, 3},   {0, 16},  {7, 24},
                                                  {1, 34},  {50, 100},  {0, 1},   {13, 15}, {10, 13}, {0, 133}};
  std::vector<int> flat;
  for (const auto& [begin, end] : spans) {
    flat.insert(flat.end(), {begin, end});
  }
  const auto count = static_cast<int>(spans.size());
  const mx::array span_array(flat.begin(), {count, 2}, mx::int32);
  for (const ExactCase& c : {ExactCase{mx::float32, mx::float32, 70, 50},
                             {mx::bfloat16, mx::bfloat16, 33, 129},
                             {mx::float32, mx::float16, 100, 31},
                             {mx::bfloat16, mx::float32, 17, 2100}}) {
    const mx::array weight = random_array({c.n, c.k}, c.w, 11);
    const mx::array bias = random_array({c.n}, mx::float32, 12);
    mx::array x = random_array({count, kLength, c.k}, c.x, 13);
    // What stands outside the spans must not matter, be it NaN.
    const mx::array nan = mx::full({count, kLength, c.k}, std::numeric_limits<float>::quiet_NaN(), c.x);
    const mx::array at = mx::arange(kLength);
    const mx::array begin = mx::slice(span_array, {0, 0}, {count, 1}), end = mx::slice(span_array, {0, 1}, {count, 2});
    const mx::array inside = mx::logical_and(mx::greater_equal(at, begin), mx::less(at, end));
    x = mx::where(mx::expand_dims(inside, 2), x, nan);
    const mx::array y = linear(x, weight, bias, {.spans = span_array});
    expect_same_for_any_threads([&] { return bits(linear(x, weight, bias, {.spans = span_array})); });
    for (int b = 0; b < count; ++b) {
      const auto [first, last] = spans[static_cast<size_t>(b)];
      SCOPED_TRACE(::testing::Message() << "sequence " << b << " rows " << first << " to " << last << " K=" << c.k);
      const mx::array alone = linear(mx::slice(x, {b, first, 0}, {b + 1, last, c.k}), weight, bias);
      EXPECT_EQ(bits(mx::slice(y, {b, first, 0}, {b + 1, last, c.n})), bits(alone));
      for (const auto& [from, to] : {std::pair{0, first}, {last, kLength}}) {
        const mx::array padding = mx::slice(y, {b, from, 0}, {b + 1, to, c.n});
        EXPECT_EQ(bits(padding), std::vector<uint8_t>(padding.nbytes(), 0));
      }
    }
  }
}

TEST(Linear, GivesEachSequenceInABatchItsOwnBits) {
  check_batches();
}

TEST(Linear, BatchedStepsGiveTheBitsOfSingleOnes) {
  for (const mx::Dtype w : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int batch : {1, 2, 3, 4, 5, 8, 13, 200}) {
      const mx::array x = random_array({batch, 1, 67}, mx::float32, 14);
      const mx::array weight = random_array({131, 67}, w, 15);
      const mx::array y = linear(x, weight);
      for (const int b : {0, batch / 2, batch - 1}) {
        const mx::array alone = linear(mx::slice(x, {b, 0, 0}, {b + 1, 1, 67}), weight);
        EXPECT_EQ(bits(mx::slice(y, {b, 0, 0}, {b + 1, 1, 131})), bits(alone)) << "batch " << batch;
      }
    }
  }
}

TEST(Linear, ClampsSpans) {
  const mx::array x = random_array({4, 5, 8}, mx::float32, 16);
  const mx::array weight = random_array({3, 8}, mx::float32, 17);
  const mx::array wild = mx::array({-7, 9, 4, 2, 2147483647, -2147483647 - 1, -5, -1}, {4, 2});
  const mx::array tame = mx::array({0, 5, 0, 0, 0, 0, 0, 0}, {4, 2});
  EXPECT_EQ(bits(linear(x, weight, {}, {.spans = wild})), bits(linear(x, weight, {}, {.spans = tame})));
}

// [a b], each of `rows` rows.
std::vector<float> side_by_side(const std::vector<float>& a, const std::vector<float>& b, size_t rows) {
  std::vector<float> out;
  const size_t m = a.size() / rows, n = b.size() / rows;
  for (size_t i = 0; i < rows; ++i) {
    out.insert(out.end(), a.begin() + static_cast<ptrdiff_t>(i * m), a.begin() + static_cast<ptrdiff_t>((i + 1) * m));
    out.insert(out.end(), b.begin() + static_cast<ptrdiff_t>(i * n), b.begin() + static_cast<ptrdiff_t>((i + 1) * n));
  }
  return out;
}

void check_low_rank() {
  for (const auto& [m, n, k, r] : {std::tuple{1, 1, 1, 1},
                                   {1, 7, 3, 2},
                                   {2, 33, 65, 8},
                                   {13, 100, 16, 5},
                                   {100, 64, 50, 8},
                                   {130, 31, 65, 40},
                                   {70, 40, 2100, 3},
                                   {40, 3, 5, 2100}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const mx::Dtype v_dtype : {mx::float32, mx::bfloat16}) {
        SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << k << " R=" << r);
        const auto sm = static_cast<size_t>(m), sn = static_cast<size_t>(n), depth = static_cast<size_t>(k + r);
        const mx::array x = random_array({m, k}, dtype, 50), weight = random_array({n, k}, dtype, 51);
        const mx::array u = random_array({m, r}, mx::float32, 52), V = random_array({n, r}, v_dtype, 53);
        const mx::array y = linear(x, weight, {}, {.low_rank = LowRankTerm{u, V}});
        ASSERT_EQ(y.dtype(), dtype);
        const Exact exact = exact_product(side_by_side(values(x), values(u), sm),
                                          side_by_side(values(weight), values(V), sn), sm, sn, depth);
        EXPECT_TRUE(within_bound(values(y), exact, depth, dtype));
        const mx::array wide = linear(x, weight, {}, {.out_dtype = mx::float32, .low_rank = LowRankTerm{u, V}});
        EXPECT_TRUE(within_bound(values(wide), exact, depth, mx::float32));
      }
    }
  }
}

TEST(Linear, AddsALowRankTerm) {
  check_low_rank();
  const mx::array x = random_array({6, 9}, mx::bfloat16, 1), weight = random_array({7, 9}, mx::bfloat16, 2);
  const LowRankTerm none{mx::zeros({6, 0}), mx::zeros({7, 0})};
  EXPECT_EQ(bits(linear(x, weight, {}, {.low_rank = none})), bits(linear(x, weight)));
}

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

TEST(Linear, RefusesWhatDoesNotFit) {
  const mx::array x = mx::zeros({2, 5, 3}), weight = mx::zeros({4, 3});
  EXPECT_EQ(message_of([&] { linear(x, mx::zeros({4, 2})); }), "[linear] weight must be (-1, 3) but got (4, 2)");
  EXPECT_EQ(message_of([&] { linear(x, weight, mx::zeros({3})); }), "[linear] bias must be (4,) but got (3,)");
  EXPECT_EQ(message_of([&] {
              linear(mx::zeros({2, 3}, mx::int32), weight);
            }),
            "[linear] x must be float32, bfloat16 or float16 but is int32");
  EXPECT_EQ(message_of([&] { linear(mx::array(1.0f), weight); }), "[linear] x must be (..., K) but is a scalar");
  EXPECT_EQ(message_of([&] {
              linear(x, weight, {}, {.spans = mx::zeros({3, 2}, mx::int32)});
            }),
            "[linear] spans must be (2, 2) but got (3, 2)");
  EXPECT_EQ(message_of([&] { linear(x, weight, {}, {.spans = mx::zeros({2, 2})}); }), "[linear] spans must be int32");
  EXPECT_EQ(message_of([&] {
              linear(mx::zeros({5, 3}), weight, {}, {.spans = mx::zeros({2, 2}, mx::int32)});
            }),
            "[linear] spans need x (B, L, K) but x is (5, 3)");
  EXPECT_EQ(message_of([&] { linear(x, weight, {}, {.out_dtype = mx::float16}); }),
            "[linear] out_dtype must be x's dtype or float32");
  EXPECT_EQ(message_of([&] {
              linear(x, weight, {}, {.low_rank = LowRankTerm{mx::zeros({2, 5, 2}), mx::zeros({3, 2})}});
            }),
            "[linear] V must be (4, -1) but got (3, 2)");
  EXPECT_EQ(message_of([&] {
              linear(x, weight, {}, {.low_rank = LowRankTerm{mx::zeros({2, 5, 3}), mx::zeros({4, 2})}});
            }),
            "[linear] u must be (2, 5, 2) but got (2, 5, 3)");
  EXPECT_EQ(message_of([&] {
              linear(x, weight, {}, {.low_rank = LowRankTerm{mx::zeros({2, 5, 2}, mx::bfloat16), mx::zeros({4, 2})}});
            }),
            "[linear] u must be float32 but is bfloat16");
}

struct Gradients {
  mx::array x, weight, bias;
};

Gradients gradients_of(decltype(linear)& f, const mx::array& x, const mx::array& weight, const mx::array& bias,
                       const mx::array& dy, const LinearOptions& options) {
  const auto fun = [&](const std::vector<mx::array>& in) { return std::vector{f(in[0], in[1], in[2], options, {})}; };
  const std::vector<mx::array> got = mx::vjp(fun, {x, weight, bias}, {dy}).second;
  return {got[0], got[1], got[2]};
}

void check_gradients() {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1},
                                {1, 7, 3},
                                {2, 17, 31},
                                {5, 100, 16},
                                {33, 15, 7},
                                {100, 70, 130},
                                {129, 31, 65},
                                {3, 2100, 5},
                                {2100, 9, 11},
                                {64, 1, 200}}) {
    for (const auto& [x_dtype, w_dtype] : {std::pair{mx::float32, mx::float32},
                                           {mx::bfloat16, mx::bfloat16},
                                           {mx::float32, mx::bfloat16},
                                           {mx::float16, mx::float32}}) {
      SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << k);
      const mx::array x = random_array({m, k}, x_dtype, 20), weight = random_array({n, k}, w_dtype, 21);
      const mx::array bias = random_array({n}, w_dtype, 22), dy = random_array({m, n}, x_dtype, 23);
      const Gradients got = gradients_of(linear, x, weight, bias, dy, {});
      ASSERT_EQ(got.x.dtype(), x_dtype);
      ASSERT_EQ(got.weight.dtype(), w_dtype);
      ASSERT_EQ(got.bias.dtype(), w_dtype);
      const auto sm = static_cast<size_t>(m), sn = static_cast<size_t>(n), sk = static_cast<size_t>(k);
      const std::vector<float> dyt = transposed(values(dy), sm, sn);
      EXPECT_TRUE(within_bound(values(got.x), exact_product(values(dy), transposed(values(weight), sn, sk), sm, sk, sn),
                               sn, x_dtype));
      EXPECT_TRUE(
          within_bound(values(got.weight), exact_product(dyt, transposed(values(x), sm, sk), sn, sk, sm), sm, w_dtype));
      EXPECT_TRUE(
          within_bound(values(got.bias), exact_product(dyt, std::vector<float>(sm, 1.0f), sn, 1, sm), sm, w_dtype));
    }
  }
}

void check_gradients_with_spans() {
  const mx::array spans = mx::array({0, 40, 3, 9, 17, 17, 39, 40}, {4, 2});
  const mx::array weight = random_array({23, 50}, mx::float32, 25), bias = random_array({23}, mx::float32, 26);
  const mx::array dy = random_array({4, 40, 23}, mx::float32, 27);
  mx::array x = random_array({4, 40, 50}, mx::float32, 24);
  const LinearOptions options{.spans = spans};
  const Gradients expected = gradients_of(linear_reference, x, weight, bias, dy, options);
  const Gradients got = gradients_of(linear, x, weight, bias, dy, options);
  EXPECT_TRUE(mx::allclose(got.x, expected.x, 1e-5, 1e-5).item<bool>());
  EXPECT_TRUE(mx::allclose(got.weight, expected.weight, 1e-5, 1e-5).item<bool>());
  EXPECT_TRUE(mx::allclose(got.bias, expected.bias, 1e-5, 1e-5).item<bool>());

  const mx::array nan = mx::full({1, 5, 50}, std::numeric_limits<float>::quiet_NaN(), mx::float32);
  x = mx::slice_update(x, nan, mx::Shape{2, 10, 0}, mx::Shape{3, 15, 50});
  EXPECT_EQ(bits(gradients_of(linear, x, weight, bias, dy, options).weight), bits(got.weight));
}

void check_gradients_for_any_threads() {
  const mx::array x = random_array({2, 130, 70}, mx::float32, 30), weight = random_array({90, 70}, mx::float32, 31);
  const mx::array bias = random_array({90}, mx::float32, 32), dy = random_array({2, 130, 90}, mx::float32, 33);
  expect_same_for_any_threads([&] { return bits(gradients_of(linear, x, weight, bias, dy, {}).x); });
  expect_same_for_any_threads([&] { return bits(gradients_of(linear, x, weight, bias, dy, {}).weight); });
  expect_same_for_any_threads([&] { return bits(gradients_of(linear, x, weight, bias, dy, {}).bias); });
}

TEST(LinearGradient, EqualsFloat64Sums) {
  check_gradients();
}

TEST(LinearGradient, KeepsToTheSpansAndEqualsTheReferences) {
  check_gradients_with_spans();
}

TEST(LinearGradient, IsTheSameForAnyThreads) {
  check_gradients_for_any_threads();
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

#ifndef __APPLE__

void check_awkward_sizes() {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1},
                                {3, 7, 1},
                                {9, 1, 3},
                                {10, 31, 17},
                                {31, 129, 100},
                                {32, 128, 15},
                                {33, 127, 31},
                                {300, 70, 65},
                                {520, 257, 7},
                                {1100, 3, 130}}) {
    check_product(m, n, k, mx::float32, mx::float32, n % 2 == 0);
    check_product(m, n, k, mx::bfloat16, mx::bfloat16, n % 2 == 0);
  }
}

void check_all() {
  check_awkward_sizes();
  check_batches();
  check_low_rank();
  check_gradients();
  check_gradients_with_spans();
  check_gradients_for_any_threads();
}

// The path of processors that multiply bfloat16, taken with float32 on all.
TEST(LinearByOnednn, HoldsWhatTheOtherKernelsHold) {
  linear_detail::set_always_onednn(true);
  EXPECT_TRUE(linear_detail::onednn_multiplies(linear_detail::Float::kFloat32, linear_detail::Float::kFloat32));
  check_all();
  linear_detail::set_always_onednn(false);
}

// The path of processors with AMX, on tiles of plain C++ where there are none.
TEST(LinearByTiles, HoldsWhatTheOtherKernelsHold) {
  linear_detail::amx::set_emulated(!cpu::has_tiles());
  check_all();
  linear_detail::amx::set_emulated(false);
}

void check_gradients_of(int m, int n, int k) {
  SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << k);
  const auto sm = static_cast<size_t>(m), sn = static_cast<size_t>(n), sk = static_cast<size_t>(k);
  const mx::array x = random_array({m, k}, mx::bfloat16, 40), weight = random_array({n, k}, mx::bfloat16, 41);
  const mx::array dy = random_array({m, n}, mx::bfloat16, 42), bias = mx::zeros({n}, mx::bfloat16);
  const Gradients got = gradients_of(linear, x, weight, bias, dy, {});
  EXPECT_TRUE(within_bound(values(got.x), exact_product(values(dy), transposed(values(weight), sn, sk), sm, sk, sn), sn,
                           mx::bfloat16));
  EXPECT_TRUE(within_bound(values(got.weight),
                           exact_product(transposed(values(dy), sm, sn), transposed(values(x), sm, sk), sn, sk, sm), sm,
                           mx::bfloat16));
}

// Panels of one, two and three vectors, several passes over k, pieces of the left operand, odd numbers of everything;
// and whole blocks of rows and vectors, whose results leave registers for where they belong.
TEST(LinearBfloat16, TakesLongSumsAndManyRows) {
  for (const auto& [m, n, k] : {std::tuple{67, 40, 3071},
                                {67, 97, 3073},
                                {13, 15, 6147},
                                {1030, 50, 3075},
                                {1400, 7, 3069},
                                {515, 200, 769},
                                {1040, 208, 3080},
                                {96, 2064, 66},
                                {41, 3, 50}}) {
    check_product(m, n, k, mx::bfloat16, mx::bfloat16, m % 2 == 0);
    check_product(m, n, k, mx::bfloat16, mx::bfloat16, false, mx::float32);
  }
  check_gradients_of(9, 3101, 50);
  check_gradients_of(3101, 9, 33);
  check_gradients_of(1031, 3, 3077);
}

TEST(LinearBfloat16, IsTheSameForAnyThreads) {
  const mx::array x = random_array({2, 300, 70}, mx::bfloat16, 43), weight = random_array({500, 70}, mx::bfloat16, 44);
  const mx::array bias = random_array({500}, mx::bfloat16, 45), dy = random_array({2, 300, 500}, mx::bfloat16, 46);
  expect_same_for_any_threads([&] { return bits(linear(x, weight, bias)); });
  expect_same_for_any_threads([&] { return bits(gradients_of(linear, x, weight, bias, dy, {}).x); });
  expect_same_for_any_threads([&] { return bits(gradients_of(linear, x, weight, bias, dy, {}).weight); });
}

// Every target that was compiled and that this processor runs, the one without vectors among them.
TEST(LinearTargets, AllHoldTheSame) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    check_awkward_sizes();
    check_gradients();
    check_batches();
    check_low_rank();
  }
  hwy::SetSupportedTargetsForTest(0);
}

#endif

}  // namespace
}  // namespace mamba::ops
