#include "mamba/ops/quantized_linear/quantized_linear.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <optional>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/quantized_linear/quantized_testing.h"
#ifndef __APPLE__
#include "mamba/ops/cpu/targets_testing.h"
#endif

namespace mamba::ops {
namespace {

namespace mx = mlx::core;

using testing::inside_wider;
using testing::kBits;
using testing::kGroups;
using testing::normal;
using testing::random_weight;
using testing::same_bits;
using testing::worst_error;

TEST(QuantizedLinear, EqualsFloat64SumsOnAwkwardSizes) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int groups : {1, 2, 3, 5, 12}) {
        for (const int n : {1, 3, 5, 8, 127}) {
          for (const int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33}) {
            if ((m + n + groups) % 3 != 0 && m > 2) {
              continue;
            }
            SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << group * groups << " bits=" << bits
                                              << " group=" << group);
            const QuantizedWeight weight = random_weight(n, group * groups, group, bits);
            const std::optional<mx::array> bias = m % 2 == 0 ? std::optional(normal({n}, 3)) : std::nullopt;
            const mx::Dtype dtype = m % 3 == 0 || m > 32 ? mx::float32 : mx::bfloat16;
            for (const mx::Dtype x_dtype : {mx::float32, dtype}) {
              const mx::array x = normal({m, group * groups}, 1, 1.0f, 0.0f, x_dtype);
              const mx::array y = quantized_linear(x, weight, bias, {.out_dtype = mx::float32});
              ASSERT_EQ(y.shape(), (mx::Shape{m, n}));
              ASSERT_LE(worst_error(y, x, weight, bias), 1.0) << x_dtype;
            }
          }
        }
      }
    }
  }
}

TEST(QuantizedLinear, EqualsFloat64SumsInEveryDtype) {
  for (const mx::Dtype x_dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype w_dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const int bits : kBits) {
        for (const int m : {1, 5, 32, 40}) {
          for (const bool float32_out : {false, true}) {
            SCOPED_TRACE(::testing::Message() << "M=" << m << " bits=" << bits << " x " << x_dtype << " W " << w_dtype);
            const QuantizedWeight weight = random_weight(50, 192, 64, bits, w_dtype);
            ASSERT_EQ(weight.scales.dtype(), w_dtype);
            const mx::array x = normal({m, 192}, 1, 1.0f, 0.0f, x_dtype);
            LinearOptions options;
            if (float32_out) {
              options.out_dtype = mx::float32;
            }
            const mx::array y = quantized_linear(x, weight, {}, options);
            ASSERT_EQ(y.dtype(), float32_out ? mx::float32 : x_dtype);
            // Many rows of bfloat16 may see W rounded to bfloat16.
            const bool rounded = m > 32 && x_dtype == mx::bfloat16;
            ASSERT_LE(worst_error(y, x, weight, {}, rounded ? 0x1p-8 : 0x1p-23), 1.0);
          }
        }
      }
    }
  }
}

TEST(QuantizedLinear, WalksLongSumsInSegmentsAndWideWeightsInTiles) {
  for (const int bits : kBits) {
    for (const int m : {1, 3, 35}) {
      const QuantizedWeight tall = random_weight(1500, 1024, 64, bits);
      for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
        // Many rows of bfloat16 may see W rounded to bfloat16.
        const double roundoff = m > 32 && dtype == mx::bfloat16 ? 0x1p-8 : 0x1p-23;
        const LinearOptions options{.out_dtype = mx::float32};
        const mx::array x = normal({m, 1024}, 1, 1.0f, 0.0f, dtype);
        EXPECT_LE(worst_error(quantized_linear(x, tall, {}, options), x, tall, {}, roundoff), 1.0) << m;
        const QuantizedWeight deep = random_weight(5, 2 * 8192 + 160, 32, bits);
        const mx::array long_x = normal({m, deep.columns()}, 4, 1.0f, 0.0f, dtype);
        EXPECT_LE(worst_error(quantized_linear(long_x, deep, {}, options), long_x, deep, {}, roundoff), 1.0) << m;
      }
    }
  }
}

// All rows of one sign, where a scaled sum of codes and a sum of biases would be large and cancel.
TEST(QuantizedLinear, KeepsPrecisionWhereXHasAMean) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = random_weight(40, 512, 64, bits);
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      const mx::array x = normal({2, 512}, 1, 0.01f, 3.0f, dtype);
      const LinearOptions options{.out_dtype = mx::float32};
      const mx::array y = quantized_linear(x, weight, {}, options);
      const mx::array reference = quantized_linear_reference(x, weight, {}, options);
      EXPECT_LE(testing::worst_difference(y, reference, mx::multiply(mx::array(20.0f), reference)), 5e-6) << dtype;
    }
  }
}

TEST(QuantizedLinear, EachSequenceGetsWhatItGetsAlone) {
  for (const int bits : kBits) {
    testing::expect_each_sequence_as_alone(random_weight(70, 192, 32, bits));
  }
}

TEST(QuantizedLinear, SpansLeaveOutRowsWhateverTheyHold) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = random_weight(33, 128, 64, bits);
    const mx::array x = normal({3, 40, 128}, 7);
    const mx::array spans = mx::array({0, 40, 5, 8, 39, 39}, {3, 2}, mx::int32);
    const mx::array inside = mx::less(mx::abs(mx::subtract(mx::arange(40), mx::array(6.0f))), mx::array(2.0f));
    mx::array spoilt = mx::where(mx::reshape(inside, {1, 40, 1}), x, mx::array(NAN));
    spoilt =
        mx::concatenate({testing::batch_row(x, 0), testing::batch_row(spoilt, 1), testing::batch_row(spoilt, 2)}, 0);
    const mx::array y = quantized_linear(spoilt, weight, normal({33}, 3), {.spans = spans});
    const mx::array expected = quantized_linear_reference(x, weight, normal({33}, 3), {.spans = spans});
    EXPECT_LE(testing::worst_difference(y, expected, expected), 1e-5);
  }
}

TEST(QuantizedLinear, DoesNotDependOnTheNumberOfThreads) {
  for (const int bits : kBits) {
    for (const int m : {1, 6, 100}) {
      const QuantizedWeight weight = random_weight(900, 256, 64, bits);
      const mx::array x = normal({m, 256}, 1);
      testing::expect_any_number_of_threads(x, weight);
    }
  }
}

TEST(QuantizedLinear, ReadsSlicesAndLeavesNeighboursAlone) {
  const QuantizedWeight weight = random_weight(37, 64, 32, 4);
  const mx::array x = normal({3, 64}, 1);
  EXPECT_TRUE(same_bits(quantized_linear(inside_wider(x, 3, 5), weight), quantized_linear(x, weight)));
  // Neighbouring rows of W, and what lies behind its last, are never part of a sum.
  QuantizedWeight spoilt = weight;
  const mx::array is_last = mx::expand_dims(mx::equal(mx::arange(37), mx::array(36.0f)), 1);
  spoilt.scales = mx::where(is_last, mx::array(NAN), weight.scales);
  const mx::array y = quantized_linear(x, spoilt);
  EXPECT_TRUE(same_bits(mx::slice(y, {0, 0}, {3, 36}), mx::slice(quantized_linear(x, weight), {0, 0}, {3, 36})));
}

TEST(QuantizedLinear, AddsALowRankTerm) {
  for (const int m : {1, 9, 40}) {
    const QuantizedWeight weight = random_weight(50, 128, 64, 4);
    const mx::array x = normal({m, 128}, 1);
    const LinearOptions options{.low_rank = LowRankTerm{.u = normal({m, 3}, 5), .V = normal({50, 3}, 6)}};
    const mx::array expected = quantized_linear_reference(x, weight, {}, options);
    EXPECT_LE(testing::worst_difference(quantized_linear(x, weight, {}, options), expected, expected), 1e-5);
  }
}

TEST(QuantizedLinear, HasTheGradientsOfDequantisedWeights) {
  for (const int bits : kBits) {
    for (const int length : {1, 45}) {
      const QuantizedWeight weight = random_weight(50, 192, 64, bits);
      const mx::array spans = mx::array({0, length, 1, length - 1 > 1 ? length - 1 : 1}, {2, 2}, mx::int32);
      const std::vector<mx::array> primals = {normal({2, length, 192}, 1), normal({2, length, 3}, 2),
                                              normal({50, 3}, 3)};
      const mx::array cotangent = normal({2, length, 50}, 4);
      using Op = mx::array (*)(const mx::array&, const QuantizedWeight&, const std::optional<mx::array>&,
                               const LinearOptions&, mx::StreamOrDevice);
      const auto gradients = [&](Op op) {
        const auto f = [&](const std::vector<mx::array>& in) {
          const LinearOptions options{.spans = spans, .low_rank = LowRankTerm{.u = in[1], .V = in[2]}};
          return std::vector{op(in[0], weight, std::nullopt, options, mx::StreamOrDevice{})};
        };
        return mx::vjp(f, primals, {cotangent}).second;
      };
      const std::vector<mx::array> got = gradients(&quantized_linear);
      const std::vector<mx::array> expected = gradients(&quantized_linear_reference);
      for (size_t i = 0; i < primals.size(); ++i) {
        EXPECT_LE(testing::worst_difference(got[i], expected[i], expected[i]), 1e-5) << i;
      }
    }
  }
}

TEST(QuantizedLinear, TakesWeightsForConstants) {
  const QuantizedWeight weight = random_weight(5, 64, 64, 8);
  const auto f = [&](const std::vector<mx::array>& in) {
    const QuantizedWeight own{.codes = in[1], .scales = in[2], .biases = in[3], .group_size = 64, .bits = 8};
    return std::vector{quantized_linear(in[0], own)};
  };
  const std::vector<mx::array> gradients =
      mx::vjp(f, {normal({2, 64}, 1), weight.codes, weight.scales, weight.biases}, {normal({2, 5}, 2)}).second;
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(mx::max(mx::abs(mx::astype(gradients[i], mx::float32))).item<float>(), 0.0f) << i;
  }
}

TEST(QuantizedLinear, TakesNoRowsAndNoColumns) {
  const QuantizedWeight weight = random_weight(5, 64, 64, 4);
  EXPECT_EQ(quantized_linear(mx::zeros({0, 64}), weight).shape(), (mx::Shape{0, 5}));
  const QuantizedWeight none{.codes = mx::zeros({0, 8}, mx::uint32),
                             .scales = mx::zeros({0, 1}),
                             .biases = mx::zeros({0, 1}),
                             .group_size = 64,
                             .bits = 4};
  mx::array y = quantized_linear(mx::zeros({3, 64}), none);
  y.eval();
  EXPECT_EQ(y.shape(), (mx::Shape{3, 0}));
}

TEST(QuantizedLinear, RefusesWhatDoesNotFit) {
  const QuantizedWeight weight = random_weight(5, 128, 64, 4);
  EXPECT_EQ(message_of([&] {
              quantized_linear(mx::zeros({2, 64}), weight);
            }),
            "[quantized_linear] weight must be (-1, 64) but got (5, 128)");
  QuantizedWeight bad = weight;
  bad.bits = 3;
  EXPECT_EQ(message_of([&] {
              quantized_linear(mx::zeros({2, 128}), bad);
            }),
            "[quantized_linear] bits must be 4 or 8 but are 3");
  bad = weight;
  bad.group_size = 16;
  EXPECT_EQ(message_of([&] { dequantize(bad); }), "[dequantize] group_size must be 32, 64 or 128 but is 16");
  bad = weight;
  bad.scales = mx::zeros({5, 3});
  EXPECT_EQ(message_of([&] { quantized_rows(bad, mx::zeros({2}, mx::int32)); }),
            "[quantized_rows] scales must be (5, 2) but got (5, 3)");
  EXPECT_EQ(message_of([&] {
              quantize(mx::zeros({4, 100}), 64, 4);
            }),
            "[quantize] groups of 64 do not divide the 100 columns of weight");
}

TEST(Dequantize, EqualsMlx) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      const QuantizedWeight weight = random_weight(13, 3 * group, group, bits);
      const mx::array expected = mx::dequantize(weight.codes, weight.scales, weight.biases, group, bits);
      EXPECT_LE(testing::worst_difference(dequantize(weight), expected, expected), 1e-7);
      EXPECT_EQ(dequantize(weight, mx::bfloat16).dtype(), mx::bfloat16);
      const mx::array tokens = mx::array({3, 0, 12, 3, 7, 1}, {2, 3}, mx::int32);
      EXPECT_TRUE(same_bits(quantized_rows(weight, tokens), mx::take(dequantize(weight), tokens, 0)));
    }
  }
}

#if !defined(__APPLE__)
void check_sums() {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int groups : {1, 3, 12}) {
        for (const int m : {1, 2, 3, 4, 5, 8, 11, 40}) {
          SCOPED_TRACE(::testing::Message()
                       << "M=" << m << " K=" << group * groups << " bits=" << bits << " group=" << group);
          const mx::Dtype dtype = m % 2 == 0 ? mx::float32 : mx::bfloat16;
          const QuantizedWeight weight = random_weight(23, group * groups, group, bits, dtype);
          const mx::array x = normal({m, group * groups}, 1);
          ASSERT_LE(worst_error(quantized_linear(x, weight), x, weight), 1.0);
          const mx::array expected = mx::dequantize(weight.codes, mx::astype(weight.scales, mx::float32),
                                                    mx::astype(weight.biases, mx::float32), group, bits);
          ASSERT_LE(testing::worst_difference(dequantize(weight, mx::float32), expected, expected), 1e-7);
        }
      }
    }
  }
}

TEST(QuantizedLinearTargets, EqualFloat64Sums) {
  testing::on_each_target(check_sums);
}
#endif

}  // namespace
}  // namespace mamba::ops
