// linear's ways that not every processor takes. Not on macOS, which has none of them.
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <tuple>
#include <vector>

#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/targets_testing.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear/linear_testing.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/onednn.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::bits;
using testing::check_batches;
using testing::check_gradients;
using testing::check_gradients_for_any_threads;
using testing::check_gradients_with_spans;
using testing::check_low_rank;
using testing::check_product;
using testing::exact_product;
using testing::expect_same_for_any_threads;
using testing::Gradients;
using testing::gradients_of;
using testing::random_array;
using testing::transposed;
using testing::values;
using testing::within_bound;

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

TEST(LinearTargets, AllHoldTheSame) {
  testing::on_each_target([] {
    check_awkward_sizes();
    check_gradients();
    check_batches();
    check_low_rank();
  });
}

}  // namespace
}  // namespace mamba::ops
