#include "mamba/ops/branches/branches.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <functional>
#include <utility>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::inside_wider;
using testing::normal;
using testing::same_bits;

using Arrays = std::vector<mx::array>;

mx::array gradient(const std::function<Arrays(const mx::array&)>& branches, const mx::array& x, const Arrays& given) {
  return mx::vjp([&](const Arrays& in) { return branches(in[0]); }, {x}, given).second[0];
}

TEST(ColumnBranches, AreTheColumnsAndJoinTheirGradients) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Shape& shape : {mx::Shape{9}, mx::Shape{0, 9}, mx::Shape{3, 9}, mx::Shape{2, 301, 9}}) {
      for (const std::vector<int>& widths : {std::vector{9}, std::vector{4, 5}, std::vector{1, 0, 6, 2}}) {
        const mx::array x = normal(shape, 1, 1.0f, 0.0f, dtype);
        const Arrays parts = column_branches(x, widths);
        EXPECT_TRUE(same_bits(mx::concatenate(parts, -1), x));
        Arrays given;
        for (const mx::array& part : parts) {
          given.push_back(inside_wider(normal(part.shape(), 2 + given.size(), 1.0f, 0.0f, dtype), 1, 3));
        }
        const auto branches = [&](const mx::array& a) { return column_branches(a, widths); };
        EXPECT_TRUE(same_bits(gradient(branches, x, given), mx::concatenate(given, -1)));
      }
    }
  }
}

TEST(ColumnBranches, ThoseThatAreNotUsedGetZeros) {
  const mx::array x = normal({5, 7}, 1);
  const auto loss = [](const mx::array& a) { return mx::sum(column_branches(a, {3, 4})[1]); };
  EXPECT_TRUE(same_bits(mx::grad(loss)(x), mx::concatenate({mx::zeros({5, 3}), mx::ones({5, 4})}, -1)));
}

TEST(ColumnBranches, RefuseWhatDoesNotFit) {
  EXPECT_EQ(message_of([] {
              column_branches(normal({2, 5}, 1), {2, 2});
            }),
            "[column_branches] the widths are 4 columns but x has 5");
  EXPECT_EQ(message_of([] {
              column_branches(normal({2, 5}, 1), {6, -1});
            }),
            "[column_branches] a width must not be negative but is -1");
}

TEST(TwoBranches, AreTheValueAndAddTheirGradients) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const mx::array x = normal({3, 1031}, 1, 1.0f, 0.0f, dtype);
    const auto [a, b] = two_branches(x);
    EXPECT_TRUE(same_bits(a, x));
    EXPECT_TRUE(same_bits(b, x));
    const Arrays given = {normal(x.shape(), 2, 1.0f, 0.0f, dtype),
                          mx::transpose(normal({1031, 3}, 3, 1.0f, 0.0f, dtype))};
    const auto branches = [](const mx::array& in) {
      const auto two = two_branches(in);
      return Arrays{two.first, two.second};
    };
    EXPECT_TRUE(same_bits(gradient(branches, x, given), mx::add(given[0], given[1])));
  }
}

TEST(TwoBranches, LeaveTheGradientsOfOthersAlone) {
  // The first branch's gradient has another user, so that its memory may not become the sum's.
  const mx::array x = normal({100}, 1);
  const mx::array given = normal({100}, 2);
  const mx::array kept = mx::add(given, mx::array(0.0f));
  const auto branches = [](const mx::array& in) {
    const auto two = two_branches(in);
    return Arrays{two.first, two.second};
  };
  EXPECT_TRUE(same_bits(gradient(branches, x, {given, given}), mx::add(kept, kept)));
  EXPECT_TRUE(same_bits(given, kept));
}

}  // namespace
}  // namespace mamba::ops
