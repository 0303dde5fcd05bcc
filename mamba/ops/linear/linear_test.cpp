#include "mamba/ops/linear/linear.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <limits>
#include <tuple>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/error_testing.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear/linear_testing.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::bits;
using testing::check_product;
using testing::random_array;
using testing::values;

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

TEST(Linear, GivesEachSequenceInABatchItsOwnBits) {
  testing::check_batches();
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

TEST(Linear, AddsALowRankTerm) {
  testing::check_low_rank();
  const mx::array x = random_array({6, 9}, mx::bfloat16, 1), weight = random_array({7, 9}, mx::bfloat16, 2);
  const LowRankTerm none{mx::zeros({6, 0}), mx::zeros({7, 0})};
  EXPECT_EQ(bits(linear(x, weight, {}, {.low_rank = none})), bits(linear(x, weight)));
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

}  // namespace
}  // namespace mamba::ops
