// Products without nodes must give the bits of linear and of its gradients.
#include "mamba/ops/linear/at_once.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <mutex>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear/sequences.h"

namespace mamba::ops::linear_detail {
namespace {

namespace mx = mlx::core;
using ops::testing::normal;
using ops::testing::same_bits;

struct Case {
  int sequences, length, n, k;
};

// A place for a matrix inside a wider one, all of it 7 before.
mx::array place_for(int rows, int columns, mx::Dtype dtype) {
  mx::array a = mx::contiguous(mx::full({rows, columns + 3}, 7.0f, dtype));
  a.eval();
  return a;
}

MatrixPlace place_of(mx::array& a) {
  return {.data = a.data<uint8_t>(), .stride = a.shape(1), .type = float_type(a.dtype())};
}

void expect_in_place(const mx::array& got, const mx::array& expected, const Case& c) {
  const int columns = expected.shape(1);
  EXPECT_TRUE(same_bits(mx::slice(got, {0, 0}, expected.shape()), expected)) << c.length << " " << c.n << " " << c.k;
  const mx::array beside = mx::slice(got, {0, columns}, {expected.shape(0), columns + 3});
  EXPECT_TRUE(mx::all(mx::equal(beside, mx::array(7.0f, got.dtype()))).item<bool>());
}

TEST(ProductsAtOnce, GiveTheBitsOfLinear) {
  // Panels, blocks of rows and strips of columns that are full and that are not, and more of k than one pass takes.
  const std::vector<Case> cases = {{1, 33, 5, 3},   {1, 64, 48, 256},   {3, 41, 80, 301}, {2, 50, 515, 48},
                                   {1, 77, 256, 7}, {1, 130, 3100, 24}, {2, 64, 16, 3100}};
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float32, mx::float16}) {
    for (const Case& c : cases) {
      const int rows = c.sequences * c.length;
      const mx::array x = normal({rows, c.k}, 1, 1.0f, 0.0f, dtype);
      const mx::array weight = normal({c.n, c.k}, 2, 0.3f, 0.0f, dtype);
      const mx::array dy = normal({rows, c.n}, 3, 1.0f, 0.0f, dtype);
      const auto run = [&](const std::vector<mx::array>& in) {
        return std::vector{linear(mx::reshape(in[0], {c.sequences, c.length, c.k}), in[1])};
      };
      auto [y, expected] = mx::vjp(run, {x, weight}, {mx::reshape(dy, {c.sequences, c.length, c.n})});
      mx::eval(std::vector{y[0], expected[0], expected[1]});

      ProductsAtOnce products(c.sequences, c.length, c.n);
      Workspace::instance().reserve(products.workspace(c.n, c.k, float_type(dtype)));
      std::unique_lock<std::mutex> locked = Workspace::instance().lock();
      products.set_workspace(Workspace::instance().data());
      mx::array got_y = place_for(rows, c.n, dtype), got_x = place_for(rows, c.k, dtype);
      mx::array got_weight = place_for(c.n, c.k, dtype), alone = place_for(rows, c.k, dtype);
      products.forward(matrix_of(x), matrix_of(weight), c.n, c.k, place_of(got_y));
      products.gradients(matrix_of(dy), matrix_of(weight), matrix_of(x), c.n, c.k, place_of(got_x),
                         place_of(got_weight));
      products.gradients(matrix_of(dy), matrix_of(weight), matrix_of(x), c.n, c.k, place_of(alone), {});
      locked.unlock();
      expect_in_place(got_y, mx::reshape(y[0], {rows, c.n}), c);
      expect_in_place(got_x, expected[0], c);
      expect_in_place(got_weight, expected[1], c);
      expect_in_place(alone, expected[0], c);
    }
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
