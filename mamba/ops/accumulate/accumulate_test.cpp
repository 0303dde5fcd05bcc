#include "mamba/ops/accumulate/accumulate.h"

#include <gtest/gtest.h>

#include <utility>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;

TEST(Accumulate, EqualsAnAddition) {
  for (const mx::Shape& shape : {mx::Shape{1}, mx::Shape{0, 3}, mx::Shape{3, 5, 7}, mx::Shape{70'001}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      const mx::array sum = normal(shape, 1);
      const mx::array value = normal(shape, 2, 1.0f, 0.0f, dtype);
      EXPECT_TRUE(same_bits(accumulate(sum, value), mx::add(sum, mx::astype(value, mx::float32))));
    }
  }
}

TEST(Accumulate, RoundsToTheSumsDtype) {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    const mx::array sum = normal({3, 1031}, 1, 1.0f, 0.0f, dtype);
    for (const mx::Dtype other : {mx::float32, dtype}) {
      const mx::array value = normal({3, 1031}, 2, 1.0f, 0.0f, other);
      const mx::array exact = mx::add(mx::astype(sum, mx::float32), mx::astype(value, mx::float32));
      EXPECT_TRUE(same_bits(accumulate(sum, value), mx::astype(exact, dtype)));
    }
  }
}

TEST(Accumulate, TakesOverASumThatNobodyElseHolds) {
  mx::array sum = normal({1000}, 1);
  const mx::array held = normal({1000}, 3);
  const mx::array value = normal({1000}, 2);
  const float* memory = sum.data<float>();
  mx::array out = accumulate(std::move(sum), value);
  mx::array other = accumulate(held, value);
  mx::eval(out, other);
  EXPECT_EQ(out.data<float>(), memory);
  EXPECT_NE(other.data<float>(), held.data<float>());
}

TEST(Accumulate, ReadsArraysThatAreNotContiguous) {
  const mx::array sum = mx::transpose(normal({4, 6}, 1));
  const mx::array value = mx::transpose(normal({4, 6}, 2));
  EXPECT_TRUE(same_bits(accumulate(sum, value), mx::add(sum, value)));
}

TEST(Accumulate, RefusesWhatDoesNotFit) {
  EXPECT_EQ(message_of([] {
              accumulate(normal({2, 3}, 1), normal({3, 2}, 1));
            }),
            "[accumulate] value must be (2, 3) but got (3, 2)");
  EXPECT_NE(message_of([] { accumulate(mx::zeros({2}, mx::int32), normal({2}, 1)); }), "no error");
}

}  // namespace
}  // namespace mamba::ops
