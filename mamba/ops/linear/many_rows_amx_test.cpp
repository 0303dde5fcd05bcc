// amx::many_rows with everything around its tiles, on tiles of plain C++ and, where there are some, the processor's.
#ifndef __APPLE__
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/exact_testing.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/multiply.h"

namespace mamba::ops::linear_detail {
namespace {

struct Case {
  int64_t m, n, k;
  bool transposed = false, by_k = false;
  bool has_bias = false, add = false, addend = false;
  Float out = Float::kFloat32;
};

// From -1 to 1. The standard library's distributions take logarithms of how much a generator tells for each number, and
// most of the time of these tests, unless they are optimised.
float number_of(std::mt19937& random) {
  return static_cast<float>(random() >> 8) * 0x1p-23F - 1;
}

// bfloat16 numbers, `stride` of them from a row to the next; what lies between rows is NaN.
struct Numbers {
  int64_t stride;
  std::vector<uint16_t> bits;
  std::vector<float> values;

  Numbers(int64_t rows, int64_t columns, std::mt19937& random)
      : stride(columns + 3),
        bits(static_cast<size_t>(rows * stride), 0x7FC0),
        values(static_cast<size_t>(rows * columns)) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const auto narrow = static_cast<uint16_t>(std::bit_cast<uint32_t>(number_of(random)) >> 16);
        bits[static_cast<size_t>(i * stride + j)] = narrow;
        values[static_cast<size_t>(i * columns + j)] = std::bit_cast<float>(static_cast<uint32_t>(narrow) << 16);
      }
    }
  }
};

// The results' bytes, of rows that lie apart, last row first; every byte around them is checked.
std::vector<uint8_t> run(const Case& c, const Numbers& left, const Numbers& right, const std::vector<float>& bias,
                         const std::vector<float>& added) {
  const int64_t item = size_of(c.out), row_bytes = (c.n + 5) * item;
  std::vector<uint8_t> memory(static_cast<size_t>(c.m * row_bytes), 0xA5);
  Product product;
  product.m = c.m;
  product.n = c.n;
  product.k = c.k;
  product.left.transposed = c.transposed;
  product.left.rows.type = Float::kBfloat16;
  for (int64_t i = 0; i < (c.transposed ? c.k : c.m); ++i) {
    product.left.rows.rows.push_back(left.bits.data() + i * left.stride);
  }
  product.right = {.matrix = {.data = right.bits.data(), .stride = right.stride, .type = Float::kBfloat16},
                   .by_k = c.by_k};
  product.bias = c.has_bias ? bias.data() : nullptr;
  product.out.type = c.out;
  product.add = c.add || c.addend;
  for (int64_t i = 0; i < c.m; ++i) {
    auto* row = memory.data() + (c.m - 1 - i) * row_bytes;
    product.out.rows.push_back(row);
    if (c.add) {
      std::copy_n(reinterpret_cast<const uint8_t*>(added.data() + i * c.n), c.n * item, row);
    }
    if (c.addend) {
      product.addend.rows.push_back(added.data() + i * c.n);
    }
  }
  EXPECT_TRUE(amx::can_multiply(product));
  std::vector<float> workspace(static_cast<size_t>(amx::many_rows_workspace(c.m, c.k)) + 16);
  auto* aligned = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(workspace.data()) + 63) / 64 * 64);
  amx::many_rows(product, aligned);
  std::vector<uint8_t> results;
  for (int64_t i = 0; i < c.m; ++i) {
    const auto* row = static_cast<const uint8_t*>(product.out.rows[static_cast<size_t>(i)]);
    results.insert(results.end(), row, row + c.n * item);
    for (int64_t byte = c.n * item; byte < row_bytes; ++byte) {
      if (row[byte] != 0xA5) {
        ADD_FAILURE() << "byte " << byte << " behind row " << i << " was written";
        return results;
      }
    }
  }
  return results;
}

float value_at(const std::vector<uint8_t>& bytes, Float type, size_t index) {
  float value = 0;
  widen(bytes.data() + index * static_cast<size_t>(size_of(type)), type, 1, &value);
  return value;
}

::testing::AssertionResult is_right(const Case& c, const Numbers& left, const Numbers& right,
                                    const std::vector<float>& bias, const std::vector<float>& added,
                                    const std::vector<uint8_t>& results) {
  const double unit = c.out == Float::kFloat32 ? 0 : c.out == Float::kBfloat16 ? 0x1p-8 : 0x1p-11;
  const auto m = static_cast<size_t>(c.m), n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k);
  const ops::testing::Exact exact =
      ops::testing::exact_product(c.transposed ? ops::testing::transposed(left.values, k, m) : left.values,
                                  c.by_k ? ops::testing::transposed(right.values, k, n) : right.values, m, n, k);
  for (size_t i = 0; i < m * n; ++i) {
    double sum = exact.sums[i], magnitude = exact.magnitudes[i];
    for (const double term : {c.has_bias ? bias[i % n] : 0.0F, c.add || c.addend ? added[i] : 0.0F}) {
      sum += term;
      magnitude += std::abs(term);
    }
    const float got = value_at(results, c.out, i);
    // As in linear_test.cpp: what k float32 multiply-adds in any order and a rounding may lose.
    const double bound =
        static_cast<double>(c.k + 2) * 0x1p-24 * magnitude + 1.01 * unit * std::abs(sum) + (unit == 0 ? 0 : 0x1p-25);
    if (!(std::abs(static_cast<double>(got) - sum) <= bound + 1e-37)) {
      return ::testing::AssertionFailure() << "(" << i / n << ", " << i % n << ") is " << got << " instead of " << sum;
    }
  }
  return ::testing::AssertionSuccess();
}

void check(const Case& c) {
  SCOPED_TRACE(::testing::Message() << "m=" << c.m << " n=" << c.n << " k=" << c.k << " transposed=" << c.transposed
                                    << " by_k=" << c.by_k << " bias=" << c.has_bias << " add=" << c.add
                                    << " addend=" << c.addend << " out=" << static_cast<int>(c.out));
  std::mt19937 random(static_cast<unsigned>(c.m * 10007 + c.n * 101 + c.k));
  const Numbers left(c.transposed ? c.k : c.m, c.transposed ? c.m : c.k, random);
  const Numbers right(c.by_k ? c.k : c.n, c.by_k ? c.n : c.k, random);
  std::vector<float> bias(static_cast<size_t>(c.n)), added(static_cast<size_t>(c.m * c.n));
  for (std::vector<float>* floats : {&bias, &added}) {
    for (float& value : *floats) {
      value = number_of(random);
    }
  }
  const std::vector<uint8_t> results = run(c, left, right, bias, added);
  EXPECT_TRUE(is_right(c, left, right, bias, added, results));
}

constexpr Float kOut[] = {Float::kFloat32, Float::kBfloat16, Float::kFloat16};

// Forms, bias, sums and dtypes take turns, so that each meets many of the sizes.
Case numbered(int64_t m, int64_t n, int64_t k, int64_t number) {
  Case c{.m = m, .n = n, .k = k, .transposed = number % 2 == 1, .by_k = number / 2 % 2 == 1};
  c.has_bias = number / 4 % 2 == 1;
  c.out = kOut[number / 3 % 3];
  c.add = number % 5 == 0 && c.out == Float::kFloat32;
  c.addend = !c.add && number % 5 == 1;
  return c;
}

// Whether a test's tiles are the processor's.
class ManyRowsAmx : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!cpu::has_bf16_products()) {
      GTEST_SKIP() << "packing takes AVX512_BF16 and what comes with it";
    }
    amx::set_emulated(!GetParam());
  }
  void TearDown() override {
    amx::set_emulated(false);
    set_num_threads(0);
  }
};

TEST_P(ManyRowsAmx, EqualsFloat64SumsOnAwkwardSizes) {
  int64_t number = 0;
  for (const int64_t k : {1, 2, 3, 31, 32, 33, 63, 65, 100}) {
    for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65, 130}) {
      for (int64_t m = 1; m <= 70; m += m < 34 ? 1 : 5) {
        check(numbered(m, n, k, ++number));
        if (HasFailure()) {
          return;
        }
      }
    }
  }
}

TEST_P(ManyRowsAmx, TakesEveryForm) {
  for (const auto& [m, n, k] :
       {std::tuple<int64_t, int64_t, int64_t>{33, 50, 70}, {16, 32, 32}, {1, 1, 1}, {70, 130, 770}}) {
    for (const bool transposed : {false, true}) {
      for (const bool by_k : {false, true}) {
        for (const bool has_bias : {false, true}) {
          for (const Float out : kOut) {
            Case c{.m = m, .n = n, .k = k, .transposed = transposed, .by_k = by_k, .has_bias = has_bias, .out = out};
            check(c);
            c.addend = true;
            check(c);
            if (out == Float::kFloat32) {
              c.addend = false;
              c.add = true;
              check(c);
            }
          }
        }
      }
    }
  }
}

// Several passes over k, several tiles of columns, rows in pieces and split between tasks.
TEST_P(ManyRowsAmx, TakesLongSumsAndManyRows) {
  int64_t number = 0;
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{67, 40, 3071},
                                {50, 230, 1025},
                                {1030, 20, 2049},
                                {45, 900, 40},
                                {1300, 33, 65},
                                {600, 70, 9000},
                                {3, 3, 20001}}) {
    for (int64_t form = 0; form < 4; ++form) {
      check(numbered(m, n, k, 4 * ++number + form));
    }
  }
}

TEST_P(ManyRowsAmx, GivesEachRowItsOwnBitsForAnyThreads) {
  std::mt19937 random(1);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{300, 130}, {70, 2100}}) {
    constexpr int64_t kRows = 600;
    const Numbers left(kRows, k, random), right(n, k, random);
    const Case whole{.m = kRows, .n = n, .k = k};
    set_num_threads(1);
    const std::vector<uint8_t> expected = run(whole, left, right, {}, {});
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      EXPECT_EQ(run(whole, left, right, {}, {}), expected) << threads << " threads";
    }
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {5, 17}, {31, 33}, {590, 10}}) {
      Numbers some = left;
      some.bits.erase(some.bits.begin(), some.bits.begin() + first * left.stride);
      const std::vector<uint8_t> alone = run({.m = count, .n = n, .k = k}, some, right, {}, {});
      const auto begin = expected.begin() + first * n * 4;
      EXPECT_EQ(alone, std::vector<uint8_t>(begin, begin + count * n * 4)) << first;
    }
  }
}

TEST_P(ManyRowsAmx, KeepsNanAndInfinityInTheirRowsAndColumns) {
  std::mt19937 random(2);
  Numbers left(40, 50, random), right(45, 50, random);
  left.bits[static_cast<size_t>(7 * left.stride + 49)] = 0x7FC0;    // NaN
  right.bits[static_cast<size_t>(20 * right.stride + 3)] = 0x7F80;  // infinity
  const std::vector<uint8_t> results = run({.m = 40, .n = 45, .k = 50}, left, right, {}, {});
  for (size_t i = 0; i < 40; ++i) {
    for (size_t j = 0; j < 45; ++j) {
      EXPECT_EQ(std::isfinite(value_at(results, Float::kFloat32, i * 45 + j)), i != 7 && j != 20) << i << " " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiles, ManyRowsAmx,
                         ::testing::ValuesIn(cpu::has_tiles() ? std::vector{false, true} : std::vector{false}),
                         [](const auto& tiles) { return tiles.param ? "OfTheProcessor" : "Emulated"; });

}  // namespace
}  // namespace mamba::ops::linear_detail
#endif  // __APPLE__
