#include <gtest/gtest.h>

#include <utility>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/embedding/embedding_gradient.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

mx::array ids(const mx::Shape& shape, int below) {
  mx::array a = mx::astype(mx::random::randint(0, below, shape, mx::int32, mx::random::key(5)), mx::int32);
  a.eval();
  return a;
}

TEST(EmbeddingGradient, EqualsReference) {
  for (const int width : {1, 7, 64, 130}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      const mx::array tokens = ids({3, 37}, 11);
      const mx::array dy = normal({3, 37, width}, 1, 1.0f, 0.0f, dtype);
      const mx::array base = normal({11, width}, 2, 1.0f, 0.0f, dtype);
      const mx::array want = embedding_gradient_reference(tokens, dy, 11, base);
      EXPECT_LE(worst_difference(embedding_gradient(tokens, dy, 11, base), want, want), 1e-6);
      const mx::array alone = embedding_gradient_reference(tokens, dy, 11);
      EXPECT_LE(worst_difference(embedding_gradient(tokens, dy, 11), alone, alone), 1e-6);
    }
  }
}

TEST(EmbeddingGradient, RoundsSumsOnceWhereTheyAreNarrow) {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    const mx::array tokens = ids({3, 137}, 11);
    const mx::array dy = normal({3, 137, 130}, 1, 1.0f, 0.0f, dtype);
    const mx::array base = normal({12, 130}, 2, 1.0f, 0.0f, dtype);
    // The same sums in float32, which has no other order.
    const mx::array want = mx::astype(embedding_gradient(tokens, dy, 12, base), dtype);
    EXPECT_TRUE(same_bits(embedding_gradient(tokens, dy, 12, mx::add(base, mx::array(0.0f, dtype)), dtype), want));
    EXPECT_TRUE(same_bits(embedding_gradient(tokens, dy, 12, mx::astype(base, mx::float32), dtype), want));
    const mx::array alone = mx::astype(embedding_gradient(tokens, dy, 12), dtype);
    EXPECT_TRUE(same_bits(embedding_gradient(tokens, dy, 12, std::nullopt, dtype), alone));
    EXPECT_EQ(embedding_gradient_reference(tokens, dy, 12, base, dtype).dtype(), dtype);
  }
}

TEST(EmbeddingGradient, EqualsTheGradientOfALookUp) {
  const mx::array tokens = ids({2, 9}, 5);
  const mx::array table = normal({5, 6}, 1);
  const mx::array factor = normal({2, 9, 6}, 2);
  const auto loss = [&](const mx::array& w) { return mx::sum(mx::multiply(mx::take(w, tokens, 0), factor)); };
  const mx::array want = mx::grad(loss)(table);
  EXPECT_LE(worst_difference(embedding_gradient(tokens, factor, 5), want, want), 1e-6);
}

TEST(EmbeddingGradient, LeavesOutTokensOutsideTheTable) {
  const mx::array tokens({-1, 2, 3, 1}, mx::int32);
  const mx::array dy = mx::ones({4, 2});
  const mx::array want({0.0f, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f}, {3, 2});
  EXPECT_TRUE(same_bits(embedding_gradient(tokens, dy, 3), want));
  EXPECT_TRUE(same_bits(embedding_gradient_reference(tokens, dy, 3), want));
}

TEST(EmbeddingGradient, TakesOverABaseThatNobodyElseHolds) {
  const mx::array tokens({0, 1, 0}, mx::int32);
  const mx::array dy = normal({3, 40}, 1);
  mx::array base = normal({50, 40}, 2);
  const mx::array want = embedding_gradient_reference(tokens, dy, 50, base);
  mx::eval(want);
  const float* memory = base.data<float>();
  mx::array out = embedding_gradient(tokens, dy, 50, std::move(base));
  mx::eval(out);
  EXPECT_EQ(out.data<float>(), memory);
  EXPECT_LE(worst_difference(out, want, want), 1e-6);
}

TEST(EmbeddingGradient, SameBitsForAnyNumberOfThreads) {
  const mx::array tokens = ids({501}, 7);
  const mx::array dy = normal({501, 200}, 1);
  const mx::array many = embedding_gradient(tokens, dy, 7);
  mx::eval(many);
  set_num_threads(1);
  const mx::array one = embedding_gradient(tokens, dy, 7);
  mx::eval(one);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(many, one));
}

TEST(EmbeddingGradient, RefusesWhatDoesNotFit) {
  const mx::array tokens = ids({2, 3}, 5);
  EXPECT_EQ(message_of([&] {
              embedding_gradient(tokens, normal({3, 2, 4}, 1), 5);
            }),
            "[embedding_gradient] dy must be (2, 3, 4) but got (3, 2, 4)");
  EXPECT_EQ(message_of([&] {
              embedding_gradient(tokens, normal({2, 3, 4}, 1), 5, normal({5, 3}, 1));
            }),
            "[embedding_gradient] base must be (5, 4) but got (5, 3)");
  EXPECT_EQ(message_of([&] {
              embedding_gradient(tokens, normal({2, 3, 4}, 1), 5, std::nullopt, mx::int32);
            }),
            "[embedding_gradient] the result cannot be int32");
}

}  // namespace
}  // namespace mamba::ops
