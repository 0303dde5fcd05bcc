// Packed weights give what the same weights give as checkpoints have them.
#include "mamba/ops/quantized_linear/packed.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <optional>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/quantized_linear/quantized_testing.h"
#ifndef __APPLE__
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/cpu/targets_testing.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/quantized_linear/kernel.h"
#endif

namespace mamba::ops {
namespace {

namespace mx = mlx::core;

using testing::kBits;
using testing::kGroups;
using testing::normal;
using testing::packed;
using testing::random_weight;
using testing::same_bits;
using testing::worst_error;

// Every value that a code can have, beside all others.
QuantizedWeight every_code(int n, int k, int bits) {
  const int words = k * bits / 32;
  std::vector<uint32_t> codes;
  for (int i = 0; i < n * words; ++i) {
    codes.push_back(static_cast<uint32_t>(i) * 0x9E3779B9u);
  }
  return {.codes = mx::array(codes.begin(), {n, words}, mx::uint32),
          .scales = mx::multiply(mx::array(0.01f), normal({n, k / 64}, 3, 0.3f, 1.0f)),
          .biases = normal({n, k / 64}, 4, 1.0f, -1.0f),
          .group_size = 64,
          .bits = bits};
}

TEST(Packed, GivesTheSameBitsBack) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int n : {1, 15, 16, 17, 100}) {
        for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
          SCOPED_TRACE(::testing::Message() << bits << " bits, groups of " << group << ", N=" << n << " " << dtype);
          const QuantizedWeight weight = random_weight(n, 3 * group, group, bits, dtype);
          const QuantizedWeight back = unpack(packed(weight));
          ASSERT_TRUE(same_bits(back.codes, weight.codes));
          ASSERT_TRUE(same_bits(back.scales, weight.scales));
          ASSERT_TRUE(same_bits(back.biases, weight.biases));
          ASSERT_EQ(back.bits, bits);
          ASSERT_EQ(back.group_size, group);
        }
      }
    }
    const QuantizedWeight all = every_code(40, 512, bits);
    EXPECT_TRUE(same_bits(unpack(packed(all)).codes, all.codes));
  }
}

TEST(Packed, PacksSlices) {
  const QuantizedWeight weight = random_weight(40, 128, 32, 4);
  QuantizedWeight slice = weight;
  for (mx::array* part : {&slice.codes, &slice.scales, &slice.biases}) {
    *part = mx::slice(*part, {0, 0}, {40, part->shape(1)}, {3, 1});
  }
  const QuantizedWeight back = unpack(packed(slice));
  EXPECT_TRUE(same_bits(back.codes, mx::contiguous(slice.codes)));
  EXPECT_TRUE(same_bits(back.biases, mx::contiguous(slice.biases)));
}

TEST(Packed, EqualsFloat64SumsOnAwkwardSizes) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int groups : {1, 3, 12}) {
        for (const int n : {1, 15, 16, 23, 130}) {
          for (const int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33}) {
            if ((m + n + groups) % 3 != 0 && m > 2) {
              continue;
            }
            SCOPED_TRACE(::testing::Message() << "M=" << m << " N=" << n << " K=" << group * groups << " bits=" << bits
                                              << " group=" << group);
            const QuantizedWeight weight = random_weight(n, group * groups, group, bits);
            const std::optional<mx::array> bias = m % 2 == 0 ? std::optional(normal({n}, 3)) : std::nullopt;
            for (const mx::Dtype x_dtype : {mx::float32, mx::bfloat16}) {
              const mx::array x = normal({m, group * groups}, 1, 1.0f, 0.0f, x_dtype);
              const mx::array y = quantized_linear(x, packed(weight), bias, {.out_dtype = mx::float32});
              ASSERT_EQ(y.shape(), (mx::Shape{m, n}));
              const bool rounded = m > 32 && x_dtype == mx::bfloat16;
              ASSERT_LE(worst_error(y, x, weight, bias, rounded ? 0x1p-8 : 0x1p-23), 1.0) << x_dtype;
            }
          }
        }
      }
    }
  }
}

TEST(Packed, EqualsFloat64SumsInEveryDtype) {
  for (const mx::Dtype x_dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype w_dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const int bits : kBits) {
        for (const int m : {1, 5, 32, 40}) {
          SCOPED_TRACE(::testing::Message() << "M=" << m << " bits=" << bits << " x " << x_dtype << " W " << w_dtype);
          const QuantizedWeight weight = random_weight(50, 192, 64, bits, w_dtype);
          const mx::array x = normal({m, 192}, 1, 1.0f, 0.0f, x_dtype);
          const mx::array y = quantized_linear(x, packed(weight));
          ASSERT_EQ(y.dtype(), x_dtype);
          // Many rows of bfloat16 may see W rounded to bfloat16.
          const bool rounded = m > 32 && x_dtype == mx::bfloat16;
          ASSERT_LE(worst_error(y, x, weight, {}, rounded ? 0x1p-8 : 0x1p-23), 1.0);
        }
      }
    }
  }
}

#ifndef __APPLE__
// What many rows see of W is W rounded to bfloat16, to the bit, however its columns and groups fall into panels.
TEST(Packed, ManyRowsEqualThoseOfRoundedFloats) {
  if (!cpu::has_bf16_products()) {
    GTEST_SKIP() << "many rows see W in float32 here";
  }
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const auto& [n, k] : {std::pair{1, group}, {47, 3 * group}, {50, 128}, {200, 768}, {33, 3200}, {400, 384}}) {
        for (const mx::Dtype w_dtype : {mx::float32, mx::bfloat16, mx::float16}) {
          SCOPED_TRACE(::testing::Message() << bits << " bits, groups of " << group << ", N=" << n << " K=" << k);
          const PackedWeight weight = packed(random_weight(n, k, group, bits, w_dtype));
          const mx::array x = normal({2, 37, k}, 1, 1.0f, 0.0f, mx::bfloat16);
          const std::optional<mx::array> bias = n % 2 == 0 ? std::optional(normal({n}, 3)) : std::nullopt;
          for (const mx::Dtype out_dtype : {mx::float32, mx::bfloat16}) {
            const LinearOptions options{.out_dtype = out_dtype};
            const mx::array y = quantized_linear(x, weight, bias, options);
            ASSERT_TRUE(same_bits(y, linear(x, dequantize(weight, mx::bfloat16), bias, options))) << out_dtype;
          }
        }
      }
    }
  }
}
#endif

TEST(Packed, KnowsEveryCode) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = every_code(40, 512, bits);
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      // Rows that pick one element each show every code by itself.
      const mx::array x = mx::slice(mx::eye(512, 512, 0, dtype), {0, 0}, {512, 512}, {17, 1});
      const mx::array y = quantized_linear(mx::expand_dims(x, 1), packed(weight), {}, {.out_dtype = mx::float32});
      ASSERT_LE(worst_error(mx::squeeze(y, 1), x, weight), 1.0) << bits << " bits, " << dtype;
    }
  }
}

// All rows of one sign, where a scaled sum of codes and a sum of biases would be large and cancel.
TEST(Packed, KeepsPrecisionWhereXHasAMean) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = random_weight(40, 512, 64, bits);
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      const mx::array x = normal({2, 512}, 1, 0.01f, 3.0f, dtype);
      const LinearOptions options{.out_dtype = mx::float32};
      const mx::array y = quantized_linear(x, packed(weight), {}, options);
      const mx::array reference = quantized_linear_reference(x, weight, {}, options);
      EXPECT_LE(testing::worst_difference(y, reference, mx::multiply(mx::array(20.0f), reference)), 5e-6) << dtype;
    }
  }
}

TEST(Packed, GivesRowsAndAllOfThemAsFloats) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
        const QuantizedWeight weight = random_weight(37, 3 * group, group, bits, dtype);
        const PackedWeight tiles = packed(weight);
        const mx::array tokens = mx::array({3, 0, 36, 3, 17, 16}, {2, 3}, mx::int32);
        EXPECT_TRUE(same_bits(quantized_rows(tiles, tokens), quantized_rows(weight, tokens)));
        EXPECT_TRUE(same_bits(dequantize(tiles, mx::float32), dequantize(weight, mx::float32)));
        EXPECT_EQ(dequantize(tiles).dtype(), dtype);
      }
    }
  }
}

TEST(Packed, EachSequenceGetsWhatItGetsAlone) {
  for (const int bits : kBits) {
    testing::expect_each_sequence_as_alone(packed(random_weight(70, 192, 32, bits)));
  }
}

TEST(Packed, DoesNotDependOnTheNumberOfThreads) {
  for (const int bits : kBits) {
    for (const int m : {1, 6, 100}) {
      for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
        const PackedWeight weight = packed(random_weight(1100, 512, 64, bits));
        const mx::array x = normal({m, 512}, 1, 1.0f, 0.0f, dtype);
        testing::expect_any_number_of_threads(x, weight);
      }
    }
  }
}

TEST(Packed, AddsALowRankTermAndHasGradients) {
  const QuantizedWeight weight = random_weight(50, 192, 64, 4);
  for (const int length : {1, 45}) {
    const std::vector<mx::array> primals = {normal({2, length, 192}, 1), normal({2, length, 3}, 2), normal({50, 3}, 3)};
    const auto gradients = [&](const auto& op) {
      const auto f = [&](const std::vector<mx::array>& in) {
        return std::vector{op(in[0], LinearOptions{.low_rank = LowRankTerm{.u = in[1], .V = in[2]}})};
      };
      const auto [values, found] = mx::vjp(f, primals, {normal({2, length, 50}, 4)});
      std::vector<mx::array> all = values;
      all.insert(all.end(), found.begin(), found.end());
      return all;
    };
    const PackedWeight tiles = packed(weight);
    const std::vector<mx::array> got =
        gradients([&](const mx::array& x, const LinearOptions& o) { return quantized_linear(x, tiles, {}, o); });
    const std::vector<mx::array> expected = gradients(
        [&](const mx::array& x, const LinearOptions& o) { return quantized_linear_reference(x, weight, {}, o); });
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(testing::worst_difference(got[i], expected[i], expected[i]), 1e-5) << i;
    }
  }
}

TEST(Packed, TakesNoRowsAndNoColumns) {
  const PackedWeight weight = packed(random_weight(5, 64, 64, 4));
  EXPECT_EQ(quantized_linear(mx::zeros({0, 64}), weight).shape(), (mx::Shape{0, 5}));
  const QuantizedWeight none{.codes = mx::zeros({0, 8}, mx::uint32),
                             .scales = mx::zeros({0, 1}),
                             .biases = mx::zeros({0, 1}),
                             .group_size = 64,
                             .bits = 4};
  mx::array y = quantized_linear(mx::zeros({3, 64}), packed(none));
  y.eval();
  EXPECT_EQ(y.shape(), (mx::Shape{3, 0}));
}

TEST(Packed, RefusesWhatDoesNotFit) {
  const PackedWeight weight = packed(random_weight(5, 128, 64, 4));
  EXPECT_EQ(message_of([&] {
              quantized_linear(mx::zeros({2, 64}), weight);
            }),
            "[quantized_linear] weight must be (-1, 64) but got (5, 128)");
  PackedWeight bad = weight;
  bad.shape = {17, 128};
  EXPECT_EQ(message_of([&] { dequantize(bad); }), "[dequantize] tiles must be (2560,) but got (1280,)");
  bad = weight;
  bad.bits = 3;
  EXPECT_EQ(message_of([&] { quantized_rows(bad, mx::zeros({2}, mx::int32)); }),
            "[quantized_rows] bits must be 4 or 8 but are 3");
}

#if !defined(__APPLE__)
TEST(Packed, GivesTheSameBitsHoweverColumnsAreCut) {
  using namespace quantized_detail;
  const int n = 75;
  for (const int bits : kBits) {
    const PackedWeight tiles = packed(random_weight(n, 192, 64, bits));
    Packed weight;
    weight.tiles = tiles.tiles.data<uint8_t>();
    weight.bits = bits;
    weight.n = n;
    weight.k = 192;
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      mx::array x = normal({3, 192}, 1, 1.0f, 0.0f, dtype);
      x.eval();
      Rows rows{.rows = {}, .type = linear_detail::float_type(dtype)};
      for (int i = 0; i < 3; ++i) {
        rows.rows.push_back(x.data<uint8_t>() + i * 192 * dtype.size());
      }
      std::vector<float> packed_x(static_cast<size_t>(few_rows_workspace(3, 192)) + 16);
      float* const aligned = packed_x.data() + (64 - reinterpret_cast<uintptr_t>(packed_x.data()) % 64) % 64 / 4;
      pack_few(rows, weight, 0, 3, aligned);
      const auto multiplied = [&](const std::vector<int64_t>& cuts) {
        std::vector<float> y(3 * n, NAN);
        OutRows out{.rows = {y.data(), y.data() + n, y.data() + 2 * n}, .type = Float::kFloat32};
        for (size_t i = 1; i < cuts.size(); ++i) {
          few_columns(weight, 3, rows.type, aligned, nullptr, cuts[i - 1], cuts[i], out);
        }
        return y;
      };
      EXPECT_EQ(multiplied({0, 3, 16, 17, 30, 33, 70, 75}), multiplied({0, 75})) << bits << " bits, " << dtype;
    }
  }
}

void check_sums() {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int groups : {1, 3, 12}) {
        for (const int m : {1, 2, 3, 4, 5, 8, 11, 40}) {
          SCOPED_TRACE(::testing::Message()
                       << "M=" << m << " K=" << group * groups << " bits=" << bits << " group=" << group);
          const mx::Dtype dtype = m % 2 == 0 ? mx::float32 : mx::bfloat16;
          const QuantizedWeight weight = random_weight(23, group * groups, group, bits, dtype);
          const PackedWeight tiles = packed(weight);
          for (const mx::Dtype x_dtype : {mx::float32, mx::bfloat16}) {
            const mx::array x = normal({m, group * groups}, 1, 1.0f, 0.0f, x_dtype);
            const bool rounded = m > 32 && x_dtype == mx::bfloat16;
            ASSERT_LE(worst_error(quantized_linear(x, tiles, {}, {.out_dtype = mx::float32}), x, weight, {},
                                  rounded ? 0x1p-8 : 0x1p-23),
                      1.0)
                << x_dtype;
          }
          ASSERT_TRUE(same_bits(dequantize(tiles, mx::float32), dequantize(weight, mx::float32)));
        }
      }
    }
  }
}

TEST(PackedTargets, EqualFloat64Sums) {
  testing::on_each_target(check_sums);
}
#endif

}  // namespace
}  // namespace mamba::ops
