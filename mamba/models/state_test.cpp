#include "mamba/models/state.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config small() {
  Config config;
  config.d_model = 6;
  config.n_layer = 2;
  config.vocab_size = 8;
  config.d_inner = 12;
  config.dt_rank = 1;
  return config;
}

TEST(State, SelectAndConcatenateAreInverse) {
  State state = State::zeros(small(), 3, mx::float32);
  state.layers[1].ssm = mx::reshape(mx::arange(3.0f * 12 * 16), {3, 12, 16});
  const State again = State::concatenate({state.select({0}), state.select({1, 2})});
  EXPECT_EQ(again.batch(), 3);
  EXPECT_TRUE(mx::array_equal(again.layers[1].ssm, state.layers[1].ssm).item<bool>());
  const State twice = state.select({2, 2});
  EXPECT_TRUE(
      mx::array_equal(twice.layers[1].ssm, mx::concatenate({mx::slice(state.layers[1].ssm, {2, 0, 0}, {3, 12, 16}),
                                                            mx::slice(state.layers[1].ssm, {2, 0, 0}, {3, 12, 16})},
                                                           0))
          .item<bool>());
  EXPECT_EQ(state.bytes(), 2u * 3 * (12 * 16 + 12 * 3) * 4);
}

TEST(State, MisuseIsNamed) {
  const State state = State::zeros(small(), 2, mx::float32);
  EXPECT_THROW(state.select({2}), Error);
  EXPECT_THROW(State::zeros(small(), 0, mx::float32), Error);
  EXPECT_THROW(State::concatenate({}), Error);
  Config other = small();
  other.d_state = 8;
  EXPECT_THROW(state.check_fits(other), Error);
  other = small();
  other.n_layer = 3;
  EXPECT_THROW(state.check_fits(other), Error);
  EXPECT_NO_THROW(state.check_fits(small()));
}

}  // namespace
}  // namespace mamba::models
