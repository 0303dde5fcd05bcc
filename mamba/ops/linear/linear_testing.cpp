#include "mamba/ops/linear/linear_testing.h"

#include <mlx/mlx.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops::testing {

namespace mx = mlx::core;

namespace {

// Half the distance between neighbours, relative to the value.
double unit_roundoff(mx::Dtype dtype) {
  return dtype == mx::float32 ? 0x1p-24 : dtype == mx::bfloat16 ? 0x1p-8 : 0x1p-11;
}

void add_bias(Exact& exact, const std::vector<float>& bias) {
  for (size_t i = 0; i < exact.sums.size(); ++i) {
    exact.sums[i] += static_cast<double>(bias[i % bias.size()]);
    exact.magnitudes[i] += std::abs(static_cast<double>(bias[i % bias.size()]));
  }
}

struct ExactCase {
  mx::Dtype x, w;
  int n, k;
};

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

}  // namespace

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

Gradients gradients_of(decltype(linear)& f, const mx::array& x, const mx::array& weight, const mx::array& bias,
                       const mx::array& dy, const LinearOptions& options) {
  const auto fun = [&](const std::vector<mx::array>& in) { return std::vector{f(in[0], in[1], in[2], options, {})}; };
  const std::vector<mx::array> got = mx::vjp(fun, {x, weight, bias}, {dy}).second;
  return {got[0], got[1], got[2]};
}

void check_product(int m, int n, int k, mx::Dtype x_dtype, mx::Dtype w_dtype, bool has_bias,
                   std::optional<mx::Dtype> out_dtype) {
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

}  // namespace mamba::ops::testing
