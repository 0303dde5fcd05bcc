#include "mamba/ops/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/rms_norm/reference.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::inside_wider;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

constexpr float kEps = 1e-5f;
const std::vector<mx::Dtype> kDtypes = {mx::float32, mx::bfloat16, mx::float16};
const std::vector<mx::Shape> kShapes = {{1},       {7},       {1, 1},    {3, 33},       {2, 5, 64}, {2, 3, 97},
                                        {0, 8},    {2, 0, 8}, {1, 768},  {2, 2, 3, 40}, {5, 2560},  {1, 2, 1, 2, 31},
                                        {2, 1, 5}, {40, 256}, {3, 7, 15}};

mx::array in_float64(const mx::array& a) {
  return mx::astype(a, mx::float64, mx::Device::cpu);
}

double half_step(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0;
}

void expect_close(const mx::array& got, const mx::array& want) {
  EXPECT_LT(worst_difference(got, want, want), 5e-7 + half_step(got.dtype())) << got.dtype();
}

TEST(RmsNorm, AgreesWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : kDtypes) {
    for (const mx::Shape& shape : kShapes) {
      for (const mx::Dtype weight_dtype : {mx::float32, dtype}) {
        const mx::array x = normal(shape, 1, 3.0f, 0.5f, dtype);
        const mx::array weight = normal({shape.back()}, 2, 1.0f, 0.0f, weight_dtype);
        const mx::array y = rms_norm(x, weight, kEps, mx::Device::cpu);
        EXPECT_EQ(y.dtype(), dtype);
        expect_close(y, rms_norm_reference(in_float64(x), in_float64(weight), kEps, mx::Device::cpu));
      }
    }
  }
}

TEST(RmsNorm, AddsTheResidualFirst) {
  for (const mx::Dtype dtype : kDtypes) {
    for (const mx::Dtype in : {mx::float32, dtype}) {
      for (const mx::Dtype out : {mx::float32, dtype}) {
        for (const mx::Shape& shape : kShapes) {
          const mx::array x = normal(shape, 1, 3.0f, 0.5f, dtype);
          const mx::array weight = normal({shape.back()}, 2);
          const mx::array residual = normal(shape, 3, 5.0f, 0.0f, in);
          const auto [y, sum] = rms_norm_add(x, residual, weight, kEps, out, mx::Device::cpu);
          EXPECT_EQ(y.dtype(), dtype);
          EXPECT_EQ(sum.dtype(), out);
          const mx::array want =
              mx::astype(mx::add(mx::astype(x, mx::float32), mx::astype(residual, mx::float32)), out);
          EXPECT_TRUE(same_bits(sum, want));
          expect_close(y, rms_norm_reference(in_float64(sum), in_float64(weight), kEps, mx::Device::cpu));

          const auto [first_y, first] = rms_norm_add(x, std::nullopt, weight, kEps, out, mx::Device::cpu);
          EXPECT_TRUE(same_bits(first, mx::astype(x, out)));
          EXPECT_TRUE(same_bits(first_y, rms_norm(x, weight, kEps, mx::Device::cpu)));
        }
      }
    }
  }
}

TEST(RmsNorm, TheReferenceAgreesWithItself) {
  const mx::array x = normal({2, 3, 20}, 1, 3.0f, 0.5f, mx::bfloat16);
  const mx::array residual = normal({2, 3, 20}, 2);
  const mx::array weight = normal({20}, 3);
  const auto [y, sum] = rms_norm_add(x, residual, weight, kEps, std::nullopt, mx::Device::cpu);
  const auto [want_y, want_sum] = rms_norm_add_reference(x, residual, weight, kEps, std::nullopt, mx::Device::cpu);
  EXPECT_EQ(want_y.dtype(), mx::bfloat16);
  EXPECT_TRUE(same_bits(sum, want_sum));
  expect_close(y, want_y);
}

TEST(RmsNorm, ReadsSlicesInPlace) {
  const mx::array x = normal({3, 4, 33}, 1);
  const mx::array residual = normal({3, 4, 33}, 3);
  const mx::array weight = normal({33}, 2);
  const auto [y, sum] = rms_norm_add(x, residual, weight, kEps, std::nullopt, mx::Device::cpu);
  const auto [slice_y, slice_sum] = rms_norm_add(inside_wider(x, 2, 9), inside_wider(residual, 0, 1),
                                                 inside_wider(weight, 1, 1), kEps, std::nullopt, mx::Device::cpu);
  EXPECT_TRUE(same_bits(y, slice_y));
  EXPECT_TRUE(same_bits(sum, slice_sum));
  const mx::array turned = mx::transpose(mx::contiguous(mx::transpose(x, {2, 0, 1})), {1, 2, 0});
  EXPECT_TRUE(same_bits(rms_norm(turned, weight, kEps, mx::Device::cpu), rms_norm(x, weight, kEps, mx::Device::cpu)));
}

TEST(RmsNorm, ThreadsAndOtherRowsDoNotChangeTheResult) {
  const mx::array x = normal({50, 1111}, 1);
  const mx::array weight = normal({1111}, 2);
  const auto norm = [&](const mx::array& in) {
    mx::array y = rms_norm(in, weight, kEps, mx::Device::cpu);
    y.eval();
    return y;
  };
  set_num_threads(1);
  const mx::array one = norm(x);
  set_num_threads(5);
  const mx::array five = norm(x);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(one, five));
  const mx::array row = mx::slice(x, {17, 0}, {18, 1111});
  EXPECT_TRUE(same_bits(norm(row), mx::slice(one, {17, 0}, {18, 1111})));
}

TEST(RmsNorm, ExtremeValues) {
  const mx::array weight = mx::ones({8});
  const mx::array zeros = rms_norm(mx::zeros({1, 8}), weight, kEps, mx::Device::cpu);
  EXPECT_TRUE(same_bits(zeros, mx::zeros({1, 8})));
  const mx::array large = rms_norm(mx::full({1, 8}, 1e18f), weight, kEps, mx::Device::cpu);
  expect_close(large, mx::ones({1, 8}));
  EXPECT_TRUE(mx::all(mx::isnan(rms_norm(mx::full({1, 8}, NAN), weight, kEps, mx::Device::cpu))).item<bool>());
}

TEST(RmsNorm, SaysWhatIsWrong) {
  const mx::array x = mx::zeros({2, 8});
  const mx::array weight = mx::zeros({8});
  EXPECT_EQ(message_of([&] { rms_norm(x, mx::zeros({7}), kEps); }), "[rms_norm] weight must be (8,) but got (7,)");
  EXPECT_EQ(message_of([&] {
              rms_norm(mx::zeros({2, 8}, mx::int32), weight, kEps);
            }),
            "[rms_norm] x must be float32, bfloat16 or float16 but is int32");
  EXPECT_EQ(message_of([&] { rms_norm(mx::array(1.0f), weight, kEps); }),
            "[rms_norm] x must be (..., D) with D at least 1 but has shape ()");
  EXPECT_EQ(message_of([&] {
              rms_norm_add(x, mx::zeros({1, 8}), weight, kEps);
            }),
            "[rms_norm] residual must be (2, 8) but got (1, 8)");
  EXPECT_EQ(message_of([&] {
              rms_norm_add(x, mx::zeros({2, 8}, mx::float16), weight, kEps);
            }),
            "[rms_norm] residual must be float32 or have x's dtype float32 but is float16");
  EXPECT_EQ(message_of([&] { rms_norm_add(x, std::nullopt, weight, kEps, mx::bfloat16); }),
            "[rms_norm] the residual can be kept in float32 or in x's dtype float32 but bfloat16 was asked for");
}

}  // namespace
}  // namespace mamba::ops
