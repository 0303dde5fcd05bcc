// What tests of quantised products share.
#pragma once

#include <gtest/gtest.h>
#include <mlx/allocator.h>
#include <mlx/mlx.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/quantized_linear/packed.h"

namespace mamba::ops::testing {

namespace mx = mlx::core;

inline constexpr int kBits[] = {4, 8};
inline constexpr int kGroups[] = {32, 64, 128};

inline QuantizedWeight random_weight(int n, int k, int group_size, int bits, mx::Dtype dtype = mx::float32,
                                     uint64_t seed = 2) {
  QuantizedWeight weight = quantize(normal({n, k}, seed, 0.3f, 0.05f, dtype), group_size, bits);
  mx::eval(weight.codes, weight.scales, weight.biases);
  return weight;
}

inline mx::array wide(const mx::array& a) {
  return mx::astype(a, mx::float64, mx::Device::cpu);
}

// The worst error in units of the largest that float32 sums of so many terms, in any order, can make, and of y's own
// rounding: at most 1 where all is well.
inline double worst_error(const mx::array& y, const mx::array& x, const QuantizedWeight& weight,
                          const std::optional<mx::array>& bias = {}, double weight_roundoff = 0x1p-23) {
  const mx::Device cpu = mx::Device::cpu;
  const int k = weight.columns();
  const mx::Shape grouped = {weight.rows(), k / weight.group_size, weight.group_size};
  const mx::array codes =
      mx::dequantize(weight.codes, mx::ones_like(mx::astype(weight.scales, mx::float32)),
                     mx::zeros_like(mx::astype(weight.biases, mx::float32)), weight.group_size, weight.bits);
  const mx::array scaled =
      mx::multiply(mx::reshape(wide(codes), grouped, cpu), mx::expand_dims(wide(weight.scales), 2, cpu), cpu);
  const mx::array W =
      mx::reshape(mx::add(scaled, mx::expand_dims(wide(weight.biases), 2, cpu), cpu), {weight.rows(), k}, cpu);
  // Of the two terms that an element of W is the sum of; they are larger than the element.
  const mx::array W_size =
      mx::reshape(mx::add(mx::abs(scaled, cpu), mx::abs(mx::expand_dims(wide(weight.biases), 2, cpu), cpu), cpu),
                  {weight.rows(), k}, cpu);
  const auto product = [&](const mx::array& a, const mx::array& b) {
    return mx::sum(mx::multiply(mx::expand_dims(a, -2, cpu), b, cpu), -1, false, cpu);
  };
  mx::array exact = product(wide(x), W);
  mx::array size = product(mx::abs(wide(x), cpu), W_size);
  if (bias) {
    exact = mx::add(exact, wide(*bias), cpu);
    size = mx::add(size, mx::abs(wide(*bias), cpu), cpu);
  }
  const double roundoff = y.dtype() == mx::float32 ? 0x1p-24 : y.dtype() == mx::bfloat16 ? 0x1p-8 : 0x1p-11;
  const double summing = (k + 3) * 0x1p-24 + weight_roundoff;
  const mx::array bound =
      mx::add(mx::add(mx::multiply(size, mx::array(summing, mx::float64), cpu),
                      mx::multiply(mx::abs(exact, cpu), mx::array(1.01 * roundoff, mx::float64), cpu), cpu),
              mx::array(0x1p-25, mx::float64), cpu);
  const mx::array error = mx::divide(mx::abs(mx::subtract(wide(y), exact, cpu), cpu), bound, cpu);
  const double worst = mx::max(error, cpu).item<double>();
  return std::isfinite(worst) ? worst : std::numeric_limits<double>::infinity();
}

inline PackedWeight packed(const QuantizedWeight& weight) {
  const size_t bytes = packed_bytes(weight);
  mx::array tiles(mx::allocator::malloc(bytes), {static_cast<int>(bytes)}, mx::uint8);
  pack(weight, reinterpret_cast<std::byte*>(tiles.data<uint8_t>()));
  return {.tiles = tiles,
          .shape = {weight.rows(), weight.columns()},
          .dtype = weight.scales.dtype(),
          .group_size = weight.group_size,
          .bits = weight.bits};
}

// A batch gives each sequence the bits that it gets alone; `weight` (.., 192), in either form.
template <typename Weight>
void expect_each_sequence_as_alone(const Weight& weight) {
  for (const int length : {1, 2, 7, 33, 50}) {
    const int batch = 11;
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      const mx::array x = normal({batch, length, 192}, 7, 1.0f, 0.0f, dtype);
      const mx::array y = quantized_linear(x, weight);
      for (int b = 0; b < batch; ++b) {
        const mx::array alone = quantized_linear(batch_row(x, b), weight);
        ASSERT_TRUE(same_bits(alone, batch_row(y, b))) << "length " << length << " row " << b;
      }
    }
  }
}

// One thread and three give the same bits; `weight` in either form.
template <typename Weight>
void expect_any_number_of_threads(const mx::array& x, const Weight& weight) {
  mx::array one = quantized_linear(x, weight);
  set_num_threads(1);
  one.eval();
  set_num_threads(3);
  mx::array three = quantized_linear(x, weight);
  three.eval();
  set_num_threads(0);
  EXPECT_TRUE(same_bits(one, three)) << x.shape(0);
}

}  // namespace mamba::ops::testing
