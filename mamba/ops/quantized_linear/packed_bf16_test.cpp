// Products of packed codes with x cut into bytes: what cutting loses, and that tiles add up the same integers.
#ifndef __APPLE__
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/quantized_linear/kernel.h"
#include "mamba/ops/quantized_linear/quantized_testing.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;

using testing::kBits;
using testing::kGroups;
using testing::normal;
using testing::packed;
using testing::random_weight;
using testing::same_bits;
using testing::wide;
using testing::worst_error;

class PackedBytes : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::has_bf16_products()) {
      GTEST_SKIP() << "x is not cut into bytes here";
    }
  }
};

mx::array from_bits(const std::vector<uint16_t>& bits, const mx::Shape& shape) {
  return mx::view(mx::array(bits.begin(), shape, mx::uint16), mx::bfloat16);
}

mx::array multiplied(const mx::array& x, const QuantizedWeight& weight) {
  mx::array y = quantized_linear(x, packed(weight), {}, {.out_dtype = mx::float32});
  y.eval();
  return y;
}

// Every product within what the header allows: half a unit, 2^-15 of the group's largest |x|, times |W| for each
// element of the group, beside the rounding of sums.
double worst_of_cutting(const mx::array& x, const QuantizedWeight& weight) {
  const mx::Device cpu = mx::Device::cpu;
  const int k = weight.columns(), group = weight.group_size, m = x.shape(0), n = weight.rows();
  const mx::array W = wide(dequantize(weight, mx::float32));
  const auto product = [&](const mx::array& a, const mx::array& b) {
    return mx::sum(mx::multiply(mx::expand_dims(a, 1, cpu), mx::expand_dims(b, 0, cpu), cpu), -1, false, cpu);
  };
  const mx::array size = mx::abs(wide(x), cpu);
  const mx::array largest = mx::max(mx::reshape(size, {m, k / group, group}, cpu), -1, false, cpu);
  const mx::array W_groups = mx::sum(mx::reshape(mx::abs(W, cpu), {n, k / group, group}, cpu), -1, false, cpu);
  const mx::array cutting = mx::multiply(product(largest, W_groups), mx::array(0x1p-15, mx::float64), cpu);
  const mx::array terms = product(size, mx::abs(W, cpu));
  // Sums of a group are exact; what is rounded are they, scales, biases and the sums over groups.
  const double roundings = (4 * k / group + 8) * 0x1p-24 * 16;
  const mx::array bound = mx::add(mx::add(cutting, mx::multiply(terms, mx::array(roundings, mx::float64), cpu), cpu),
                                  mx::array(k * 0x1p-126, mx::float64), cpu);
  const mx::array y = wide(multiplied(x, weight));
  const mx::array error = mx::abs(mx::subtract(y, product(wide(x), W), cpu), cpu);
  const double worst = mx::max(mx::divide(error, bound, cpu), cpu).item<double>();
  return std::isfinite(worst) ? worst : std::numeric_limits<double>::infinity();
}

// Numbers whose exponents differ by up to `range` within a group, of both signs, with zeros between them.
mx::array spread(int m, int k, int lowest, int range, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint16_t> bits;
  for (int i = 0; i < m * k; ++i) {
    const unsigned any = random();
    const auto exponent = static_cast<unsigned>(lowest) + any % static_cast<unsigned>(range + 1);
    bits.push_back(any >> 29 == 0 ? 0 : static_cast<uint16_t>((any >> 16 & 0x807F) | exponent << 7));
  }
  return from_bits(bits, {m, k});
}

TEST_F(PackedBytes, RoundsWhatIsSmallBesideItsGroupToTheUnit) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      const QuantizedWeight weight = random_weight(37, 3 * group, group, bits);
      for (const int range : {1, 8, 16, 40, 120}) {
        for (const int lowest : {0, 3, 90, 130}) {
          const mx::array x = spread(3, 3 * group, lowest, range, static_cast<unsigned>(group + range));
          EXPECT_LE(worst_of_cutting(x, weight), 1.0)
              << bits << " bits, groups of " << group << ", exponents from " << lowest << " to " << lowest + range;
        }
      }
    }
  }
}

// Where a group's numbers are within a 64th of the largest nothing is lost but by float32 sums.
TEST_F(PackedBytes, IsExactWithinA64th) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      const QuantizedWeight weight = random_weight(50, 2 * group, group, bits);
      for (const int lowest : {20, 120, 230}) {
        const mx::array x = spread(4, 2 * group, lowest, 6, 5);
        // Scaled so that the errors' bound, which has an absolute part, says something.
        const mx::array back = mx::array(std::ldexp(1.0f, std::min(127, std::max(-126, 124 - lowest))));
        const mx::array y = mx::multiply(multiplied(x, weight), back);
        const mx::array near_one = mx::astype(mx::multiply(mx::astype(x, mx::float32), back), mx::bfloat16);
        EXPECT_LE(worst_error(y, near_one, weight), 1.0) << bits << " bits, groups of " << group << " " << lowest;
      }
    }
  }
}

// All bits ones: the numbers next below a power of two, of which n is as large as it can be.
TEST_F(PackedBytes, HoldsTheLargestIntegers) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      QuantizedWeight weight = random_weight(16, group, group, bits);
      weight.codes = mx::full(weight.codes.shape(), 0xFFFFFFFFu, mx::uint32);
      for (const int number : {0x3F7F, 0xBF7F, 0x3F7E, 0xBF7E}) {
        const mx::array x = mx::full({1, group}, from_bits({static_cast<uint16_t>(number)}, {1}));
        EXPECT_LE(worst_error(multiplied(x, weight), x, weight), 1.0) << bits << " bits, " << group << " " << number;
      }
    }
  }
}

TEST_F(PackedBytes, TakesZerosAndTheSmallestNumbers) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = random_weight(20, 128, 64, bits);
    EXPECT_TRUE(
        mx::all(mx::equal(multiplied(mx::zeros({2, 128}, mx::bfloat16), weight), mx::array(0.0f))).item<bool>());
    for (const int number : {0x0001, 0x007F, 0x0080, 0x0480, 0x8001}) {
      const mx::array x = mx::full({2, 128}, from_bits({static_cast<uint16_t>(number)}, {1}));
      EXPECT_LE(worst_of_cutting(x, weight), 1.0) << number;
    }
  }
}

TEST_F(PackedBytes, KeepsNanAndInfinityInTheirRows) {
  for (const int bits : kBits) {
    const QuantizedWeight weight = random_weight(35, 192, 64, bits);
    for (const uint16_t special : {0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81}) {
      std::vector<uint16_t> numbers(4 * 192, 0x3F81);
      numbers[2 * 192 + 77] = special;
      const mx::array y = multiplied(from_bits(numbers, {4, 192}), weight);
      for (int row = 0; row < 4; ++row) {
        const mx::array finite = mx::isfinite(mx::slice(y, {row, 0}, {row + 1, 35}));
        EXPECT_EQ(mx::all(finite).item<bool>(), row != 2) << special;
        EXPECT_EQ(mx::any(finite).item<bool>(), row != 2) << special;
      }
    }
  }
}

// Whether the tiles are the processor's.
class PackedTiles : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!cpu::has_bf16_products()) {
      GTEST_SKIP() << "x is not cut into bytes here";
    }
  }
  void TearDown() override { linear_detail::amx::set_emulated(false); }

  void on_tiles() const { linear_detail::amx::set_emulated(!GetParam()); }
};

// What a product reads and writes, as plain memory.
struct PlainProduct {
  quantized_detail::Packed weight;
  quantized_detail::Rows rows{.rows = {}, .type = quantized_detail::Float::kBfloat16};

  PlainProduct(const PackedWeight& tiles, const mx::array& x) {
    weight.tiles = tiles.tiles.data<uint8_t>();
    weight.type = linear_detail::float_type(tiles.dtype);
    weight.group_size = tiles.group_size;
    weight.bits = tiles.bits;
    weight.n = tiles.rows();
    weight.k = tiles.columns();
    for (int i = 0; i < x.shape(0); ++i) {
      rows.rows.push_back(x.data<uint8_t>() + i * weight.k * 2);
    }
  }

  // Rows [first, first + count), their columns cut at multiples of `step`; x is packed a group at a time if they are
  // cut.
  std::vector<float> run(int64_t first, int64_t count, int64_t step) const {
    quantized_detail::Rows some{.rows = {}, .type = rows.type};
    some.rows.assign(rows.rows.begin() + first, rows.rows.begin() + first + count);
    std::vector<float> x(static_cast<size_t>(quantized_detail::few_rows_workspace(count, weight.k)), NAN);
    std::vector<float> y(static_cast<size_t>(count * weight.n), NAN);
    quantized_detail::OutRows out;
    for (int64_t i = 0; i < count; ++i) {
      out.rows.push_back(y.data() + i * weight.n);
    }
    if (step >= weight.n) {
      pack_few(some, weight, 0, count, x.data());
    } else {
      for (int64_t group = weight.groups(); group-- > 0;) {
        pack_few_groups(some, weight, group, group + 1, x.data());
      }
    }
    for (int64_t begin = 0; begin < weight.n; begin += step) {
      few_columns(weight, count, rows.type, x.data(), nullptr, begin, std::min(weight.n, begin + step), out);
    }
    return y;
  }
};

// A row alone is added up without tiles.
TEST_P(PackedTiles, AddUpTheSameIntegers) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const auto& [n, groups] : {std::pair{1, 1}, {16, 1}, {33, 2}, {75, 3}, {130, 12}}) {
        const mx::Dtype dtype = n % 3 == 0 ? mx::float32 : n % 2 == 0 ? mx::bfloat16 : mx::float16;
        SCOPED_TRACE(::testing::Message()
                     << bits << " bits, groups of " << group << ", N=" << n << " K=" << group * groups << " " << dtype);
        const PackedWeight weight = packed(random_weight(n, group * groups, group, bits, dtype));
        mx::array x = spread(17, group * groups, 115, 14, 9);
        x.eval();
        const PlainProduct product(weight, x);
        std::vector<std::vector<float>> alone;
        for (int row = 0; row < 17; ++row) {
          alone.push_back(product.run(row, 1, n));
        }
        on_tiles();
        EXPECT_FALSE(quantized_detail::amx::can_multiply(2));
        EXPECT_TRUE(quantized_detail::amx::can_multiply(3));
        for (const auto& [first, count] : {std::pair{0, 17}, {1, 3}, {2, 4}, {3, 5}, {4, 6}, {5, 7}, {9, 8}, {0, 9}}) {
          for (const int step : {n, 48, 7}) {
            const std::vector<float> y = product.run(first, count, step);
            for (int row = 0; row < count; ++row) {
              const std::vector<float> got(y.begin() + row * n, y.begin() + (row + 1) * n);
              ASSERT_EQ(got, alone[static_cast<size_t>(first + row)]) << row << " of " << count << ", " << step;
            }
          }
        }
        linear_detail::amx::set_emulated(false);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiles, PackedTiles,
                         ::testing::ValuesIn(cpu::has_tiles() ? std::vector{false, true} : std::vector{false}),
                         [](const auto& tiles) { return tiles.param ? "OfTheProcessor" : "Emulated"; });

}  // namespace
}  // namespace mamba::ops
#endif  // __APPLE__
