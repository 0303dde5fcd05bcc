// The GPU path on the host: the kernel that splits matrices, and what the products of its parts come to.
#include "mamba/ops/product/gpu.h"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/product/gpu_host.h"
#include "mamba/ops/product/product.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;
using testing::values;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

class ProductGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    product_detail::use_host_kernels();
    take_gpu_paths(true);
  }
  void TearDown() override { take_gpu_paths(false); }
};

// Rows of the sizes of 1 / factor, 1 and factor.
mx::array badly_scaled(const mx::array& x, float factor) {
  std::vector<float> scales;
  for (int row = 0; row < x.shape(0); ++row) {
    scales.push_back(row % 3 == 0 ? 1.0f / factor : row % 3 == 1 ? 1.0f : factor);
  }
  mx::array scaled = mx::multiply(x, mx::array(scales.begin(), {x.shape(0), 1}));
  scaled.eval();
  return scaled;
}

// The largest difference from a product in float64, relative to the sum of the absolute values of its terms.
double product_error(const mx::array& got, const mx::array& x, const mx::array& y) {
  const mx::array a = mx::astype(x, mx::float64, mx::Device::cpu);
  const mx::array b = mx::astype(y, mx::float64, mx::Device::cpu);
  const mx::array want = mx::matmul(a, b, mx::Device::cpu);
  const mx::array terms = mx::matmul(mx::abs(a, mx::Device::cpu), mx::abs(b, mx::Device::cpu), mx::Device::cpu);
  EXPECT_EQ(got.shape(), want.shape());
  const mx::array difference = mx::subtract(mx::astype(got, mx::float64, mx::Device::cpu), want, mx::Device::cpu);
  return mx::max(mx::divide(mx::abs(difference, mx::Device::cpu), terms, mx::Device::cpu), mx::Device::cpu)
      .item<double>();
}

// 2^-19 of each term, and float32's sums on the host one after another.
double bound(int terms) {
  return 0x1p-19 + 3 * terms * 0x1p-25;
}

TEST_F(ProductGpu, PartsAreNumbersOfElevenBitsThatAddUp) {
  for (const mx::Shape& shape : std::vector<mx::Shape>{{1, 1}, {3, 5}, {7, 48}, {2, 1025}, {33, 80}}) {
    const int rows = shape[0];
    const int columns = shape[1];
    const mx::array whole = badly_scaled(normal(shape, 1), 1e20f);
    const mx::array wide = testing::inside_wider(whole, 3, 5);
    const mx::array turned = mx::transpose(mx::contiguous(mx::transpose(whole)));
    for (const mx::array& x : {whole, wide, turned}) {
      for (const bool blocks : {false, true}) {
        for (int count = 2; count <= 3; ++count) {
          for (int low = 0; low < count; ++low) {
            const mx::array got = product_detail::gpu_split(x, {count, low, blocks}, cpu());
            ASSERT_EQ(got.shape(), blocks ? mx::Shape({count * rows, columns}) : mx::Shape({rows, count * columns}));
            const std::vector<float> parts = values(got);
            const std::vector<float> want = values(whole);
            for (int row = 0; row < rows; ++row) {
              for (int column = 0; column < columns; ++column) {
                const auto at = [&](int part) {
                  return parts[static_cast<size_t>(blocks ? (part * rows + row) * columns + column
                                                          : (row * count + part) * columns + column)];
                };
                const float v = want[static_cast<size_t>(row * columns + column)];
                for (int part = 0; part < count; ++part) {
                  ASSERT_EQ(std::bit_cast<uint32_t>(at(part)) & 0x1fff, 0u);
                  if (part != low) {
                    ASSERT_EQ(std::bit_cast<uint32_t>(at(part)), std::bit_cast<uint32_t>(v) & 0xffffe000u);
                  }
                }
                const int high = low == 0 ? 1 : 0;
                ASSERT_LE(std::fabs(at(high) + at(low) - v), std::fabs(v) * 0x1p-21f) << v;
              }
            }
          }
        }
      }
    }
  }
}

TEST_F(ProductGpu, PiecesOfRowsAreSplitForThemselves) {
  const mx::array x = testing::inside_wider(normal({5, 42}, 1), 3, 5);
  for (const int piece : {1, 6, 42}) {
    const mx::array got = product_detail::gpu_split(x, {.count = 3, .low = 1, .blocks = false}, cpu(), piece);
    ASSERT_EQ(got.shape(), mx::Shape({42 / piece * 5, 3 * piece}));
    for (int from = 0; from < 42; from += piece) {
      const mx::array part = mx::slice(x, {0, from}, {5, from + piece});
      const mx::array want = product_detail::gpu_split(part, {.count = 3, .low = 1, .blocks = false}, cpu());
      const int row = from / piece * 5;
      EXPECT_EQ(values(mx::slice(got, {row, 0}, {row + 5, 3 * piece})), values(want));
    }
  }
}

TEST_F(ProductGpu, EndsOfTheRangeSplitAsWell) {
  constexpr float kMost = std::numeric_limits<float>::max();
  const mx::array x(
      {0.0f, -0.0f, kMost, -kMost, 1e-41f, 0x1p-126f, kInfinity, -kInfinity, NAN, std::bit_cast<float>(0x7f800001)},
      {1, 10});
  const std::vector<float> parts = values(product_detail::gpu_split(x, {.count = 3, .low = 1, .blocks = true}, cpu()));
  const auto at = [&](int part, int i) { return parts[static_cast<size_t>(part * 10 + i)]; };
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(at(0, i), at(2, i));
  }
  for (const int i : {2, 3}) {
    EXPECT_NEAR(at(0, i) / kMost + at(1, i) / kMost, i == 2 ? 1.0 : -1.0, 0x1p-21);
  }
  EXPECT_EQ(at(0, 0) + at(1, 0), 0.0f);
  EXPECT_NEAR(static_cast<double>(at(0, 4)) + at(1, 4), 1e-41, 0x1p-137);
  EXPECT_EQ(at(0, 5), 0x1p-126f);
  // What is not finite stands in one part.
  for (int i = 6; i < 10; ++i) {
    EXPECT_EQ(at(0, i), 0.0f);
    EXPECT_EQ(at(1, i), 0.0f);
  }
  EXPECT_EQ(at(2, 6), kInfinity);
  EXPECT_EQ(at(2, 7), -kInfinity);
  EXPECT_TRUE(std::isnan(at(2, 8)) && std::isnan(at(2, 9)));
}

TEST_F(ProductGpu, AgreesWithFloat64WhateverTheSizesAndScales) {
  ASSERT_TRUE(splits_products(cpu()));
  struct Case {
    int m, n, k;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1},
                                         {1, 33, 70},
                                         {5, 7, 3},
                                         {8, 80, 48},
                                         {33, 17, 129},
                                         {64, 3, 1000},
                                         {9, 8, 2048},
                                         {12, 5, 2049},
                                         {8, 3, 5000}}) {
    const mx::array x = badly_scaled(normal({c.m, c.k}, 1), 1e20f);
    const mx::array y = badly_scaled(normal({c.n, c.k}, 2), 1e15f);  // their products are no denormals
    EXPECT_LT(product_error(product_nt(Operand(x), Operand(y), cpu()), x, mx::transpose(y)), bound(c.k));
    const mx::array right = normal({c.k, c.n}, 3);
    EXPECT_LT(product_error(product_nn(Operand(x), Operand(right), cpu()), x, right), bound(c.k));
    const mx::array left = normal({c.k, c.m}, 4);
    EXPECT_LT(product_error(product_tn(Operand(left), Operand(right), cpu()), mx::transpose(left), right), bound(c.k));
    const mx::array sum = normal({c.m, c.n}, 5);
    const mx::array added = product_tn(Operand(left), Operand(right), cpu(), sum);
    EXPECT_LT(product_error(mx::subtract(added, sum), mx::transpose(left), right), 0.01);
    EXPECT_LT(
        product_error(mx::subtract(product_nn(Operand(left), Operand(normal({c.m, c.n}, 6)), cpu(), right), right),
                      left, normal({c.m, c.n}, 6)),
        0.01);
  }
}

TEST_F(ProductGpu, OperandsServeSeveralProducts) {
  const mx::array g = normal({40, 9}, 1);
  const Operand shared(g);
  const Operand copy = shared;
  const mx::array weight = normal({9, 12}, 2);
  const mx::array x = normal({40, 12}, 3);
  EXPECT_LT(product_error(product_nn(shared, Operand(weight), cpu()), g, weight), bound(9));
  EXPECT_LT(product_error(product_tn(copy, Operand(x), cpu()), mx::transpose(g), x), bound(40));
  EXPECT_EQ(shared.left(cpu())[0].id(), copy.left(cpu())[0].id());
  EXPECT_EQ(shared.right(cpu())[0].id(), copy.right(cpu())[0].id());
  EXPECT_EQ(shared.transposed(cpu()).id(), copy.transposed(cpu()).id());
}

TEST_F(ProductGpu, WhatIsNotFiniteComesOutAsInFloat32) {
  // Eight rows, beyond those that are multiplied one by one; 1 and 0.5 have no low part to multiply infinity with.
  std::vector<float> rows(8 * 3, 0.5f);
  rows[0] = kInfinity;
  rows[3] = -kInfinity;
  rows[6] = NAN;
  rows[9] = kInfinity;
  rows[10] = -kInfinity;
  rows[12] = 0.0f;
  rows[15] = 1e-41f;
  const mx::array x(rows.begin(), {8, 3});
  for (const mx::array& y : {mx::array({1.0f, 0.5f, 2.0f, 1.1f, 0.3f, -7.7f}, {2, 3}),
                             mx::array({kInfinity, 0.5f, 2.0f, 0.1f, 0.3f, 1.0f}, {2, 3})}) {
    const std::vector<float> want = values(mx::matmul(x, mx::transpose(y)));
    const std::vector<std::vector<float>> all = {
        values(product_nt(Operand(x), Operand(y), cpu())),
        values(product_nn(Operand(x), Operand(mx::contiguous(mx::transpose(y))), cpu())),
        values(
            product_tn(Operand(mx::contiguous(mx::transpose(x))), Operand(mx::contiguous(mx::transpose(y))), cpu()))};
    for (const std::vector<float>& got : all) {
      for (size_t i = 0; i < want.size(); ++i) {
        if (std::isfinite(want[i])) {
          EXPECT_NEAR(got[i], want[i], std::fabs(want[i]) * 1e-5f);
        } else {
          EXPECT_TRUE(std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i]) << i << ": " << got[i];
        }
      }
    }
  }
}

TEST_F(ProductGpu, OtherDtypesAreMultipliedAsTheyAre) {
  const mx::array x = normal({20, 16}, 1, 1.0f, 0.0f, mx::bfloat16);
  const mx::array y = normal({9, 16}, 2, 1.0f, 0.0f, mx::bfloat16);
  EXPECT_TRUE(same_bits(product_nt(Operand(x), Operand(y), cpu()), mx::matmul(x, mx::transpose(y))));
}

TEST_F(ProductGpu, NothingIsSplitWhereNoTensorCoresAre) {
  take_gpu_paths(false);
  EXPECT_FALSE(splits_products(cpu()));
  const mx::array x = normal({20, 16}, 1);
  const mx::array y = normal({9, 16}, 2);
  EXPECT_TRUE(same_bits(product_nt(Operand(x), Operand(y), cpu()), mx::matmul(x, mx::transpose(y))));
}

TEST_F(ProductGpu, EmptyMatricesGiveZeros) {
  const mx::array none = product_nt(Operand(mx::zeros({7, 0})), Operand(mx::zeros({3, 0})), cpu());
  EXPECT_EQ(mx::sum(mx::abs(none)).item<float>(), 0.0f);
  EXPECT_EQ(product_nn(Operand(mx::zeros({0, 4})), Operand(mx::zeros({4, 3})), cpu()).shape(), mx::Shape({0, 3}));
}

TEST_F(ProductGpu, TurnedPartsAreThoseOfTheTranspose) {
  const product_detail::Parts parts{.count = 3, .low = 1, .blocks = false};
  for (const mx::Shape& shape : std::vector<mx::Shape>{{1, 1}, {5, 70}, {65, 33}, {128, 32}}) {
    const mx::array x = normal(shape, 1);
    const mx::array want = product_detail::gpu_split(mx::transpose(x), parts, cpu());
    EXPECT_TRUE(same_bits(product_detail::gpu_split_turned(x, parts, 0, cpu()), want));
    EXPECT_TRUE(same_bits(product_detail::gpu_split_turned(testing::inside_wider(x, 1, 4), parts, 0, cpu()), want));
  }
  const mx::array x = normal({96, 37}, 2);
  const mx::array got = product_detail::gpu_split_turned(x, parts, 32, cpu());
  for (int piece = 0; piece < 3; ++piece) {
    const mx::array rows = mx::slice(x, {32 * piece, 0}, {32 * piece + 32, 37});
    EXPECT_TRUE(same_bits(mx::squeeze(mx::slice(got, {piece, 0, 0}, {piece + 1, 37, 96}), 0),
                          product_detail::gpu_split_turned(rows, parts, 0, cpu())));
  }
}

TEST_F(ProductGpu, SumsAddWhatTheyAreGiven) {
  const mx::array a = normal({3, 5, 70}, 1);
  const mx::array b = mx::transpose(normal({2, 70, 5}, 2), {0, 2, 1});
  const mx::array want = mx::sum(mx::astype(mx::concatenate({a, b}, 0), mx::float64, mx::Device::cpu), 0);
  EXPECT_LT(testing::worst_difference(product_detail::gpu_sum({a, b}, cpu()), want, want), 1e-6);
  EXPECT_TRUE(same_bits(product_detail::gpu_sum({normal({1, 7}, 3)}, cpu()), mx::reshape(normal({1, 7}, 3), {7})));
}

// The projections' own op, its gradients and an adapter's term included.
TEST_F(ProductGpu, LinearTakesThemInBothDirections) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    for (const int length : {1, 3, 40}) {
      const std::vector<mx::array> in = {normal({2, length, 24}, 1, 1.0f, 0.0f, dtype), normal({13, 24}, 2),
                                         normal({13}, 3), normal({2, length, 4}, 4), normal({13, 4}, 5)};
      const auto with = [&](auto op) {
        return [=](const std::vector<mx::array>& a) {
          LinearOptions options{.out_dtype = mx::float32, .low_rank = LowRankTerm{a[3], a[4]}};
          return std::vector{op(a[0], a[1], a[2], options, mx::Device::cpu)};
        };
      };
      const std::vector<mx::array> cotangent = {normal({2, length, 13}, 6)};
      testing::expect_close(testing::values_and_gradients(with(linear), in, cotangent),
                            testing::values_and_gradients(with(linear_reference), in, cotangent),
                            dtype == mx::float32 ? 1e-5 : 0x1p-8);
    }
  }
}

}  // namespace
}  // namespace mamba::ops
