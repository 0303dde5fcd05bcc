// A prompt's blocks as single nodes give the bits of their operations.
#ifndef __APPLE__
#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cstdint>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/mamba.h"
#include "mamba/models/random_weights.h"
#include "mamba/ops/cpu/targets_testing.h"
#include "mamba/ops/linear/many_rows.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

struct Case {
  mx::Dtype dtype;
  int width, inner, states, rank, taps;
  int bits = 0;
  bool residual_in_fp32 = true;
  bool has_biases = false;
};

constexpr int kWords = 61;

MambaLM model_of(const Case& c) {
  Config config;
  config.vocab_size = kWords;
  config.d_model = c.width;
  config.d_inner = c.inner;
  config.d_state = c.states;
  config.dt_rank = c.rank;
  config.d_conv = c.taps;
  config.n_layer = 2;
  config.residual_in_fp32 = c.residual_in_fp32;
  config.bias = c.has_biases;
  config.conv_bias = c.has_biases;
  if (c.bits > 0) {
    config.quantization = QuantizationConfig{.common = {32, c.bits}};
  }
  MambaLM model(config);
  load_parameters(*random_checkpoint(config, c.dtype), model, c.dtype);
  model.prepare();
  return model;
}

mx::array tokens_of(int batch, int length, uint64_t seed) {
  return mx::random::randint(0, kWords, {batch, length}, mx::int32, mx::random::key(seed));
}

bool same_bits(const mx::array& a, const mx::array& b) {
  const mx::Dtype bits = a.dtype() == mx::float32 ? mx::uint32 : mx::uint16;
  return a.dtype() == b.dtype() && mx::array_equal(mx::view(a, bits), mx::view(b, bits)).item<bool>();
}

void expect_bits_of_operations(const MambaLM& model, int batch, int length) {
  // From a state that is none of zeros.
  const State start = model.hidden(tokens_of(batch, 9, 1), model.initial_state(batch)).second;
  const mx::array tokens = tokens_of(batch, length, 2);
  const auto [want, after] = model.hidden(tokens, start);
  const auto [got, next] = model.hidden(tokens, start, {.evaluate = true});
  EXPECT_TRUE(same_bits(got, want)) << batch << " x " << length;
  for (size_t i = 0; i < next.layers.size(); ++i) {
    EXPECT_TRUE(same_bits(next.layers[i].conv, after.layers[i].conv)) << batch << " x " << length << ", layer " << i;
    EXPECT_TRUE(same_bits(next.layers[i].ssm, after.layers[i].ssm)) << batch << " x " << length << ", layer " << i;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    all.push_back({dtype, 96, 192, 16, 6, 4});
    all.push_back({dtype, 37, 71, 5, 7, 3, 0, false, true});
    all.push_back({dtype, 51, 33, 17, 1, 2, 0, true, true});
    all.push_back({dtype, 48, 112, 32, 16, 5, 0, false});
  }
  for (const int bits : {4, 8}) {
    all.push_back({mx::bfloat16, 96, 160, 16, 7, 4, bits});
    all.push_back({mx::bfloat16, 64, 224, 24, 9, 4, bits, false, true});
    all.push_back({mx::float32, 64, 96, 16, 4, 4, bits});
  }
  return all;
}

TEST(Prompt, BlocksGiveTheBitsOfTheirOperations) {
  ops::testing::on_each_target([] {
    for (const Case& c : cases()) {
      SCOPED_TRACE(::testing::Message() << c.dtype << ", " << c.width << ", inner " << c.inner << ", N " << c.states
                                        << ", bits " << c.bits);
      const MambaLM model = model_of(c);
      expect_bits_of_operations(model, 1, 77);
      expect_bits_of_operations(model, 3, 64);
    }
  });
}

// Widths at which a product has several tiles, and positions several pieces, on any number of threads.
TEST(Prompt, BlocksOfManyTilesGiveTheBitsOfTheirOperations) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const MambaLM model = model_of({dtype, 416, 864, 16, 26, 4});
    for (const int threads : {1, 2, 3, 8}) {
      set_num_threads(threads);
      SCOPED_TRACE(::testing::Message() << dtype << ", threads " << threads);
      expect_bits_of_operations(model, 1, 512);
    }
  }
  set_num_threads(0);
}

// What is held elsewhere stays as it is, and a walk in pieces is a walk in one.
TEST(Prompt, StatesThatAreHeldStay) {
  const MambaLM model = model_of({mx::bfloat16, 96, 192, 16, 6, 4});
  const mx::array tokens = tokens_of(2, 2 * MambaLM::kChunk + 70, 3);
  State whole = model.initial_state(2);
  const State zeros = whole;
  const mx::array all = model.forward(tokens, whole);
  State state = model.initial_state(2);
  std::vector<mx::array> parts;
  for (int first = 0; first < tokens.shape(1); first += MambaLM::kChunk) {
    const int last = std::min(tokens.shape(1), first + MambaLM::kChunk);
    const State before = state;
    const mx::array held = mx::multiply(before.layers[1].ssm, mx::array(1.0f));
    mx::eval(held);
    parts.push_back(model.forward(mx::slice(tokens, {0, first}, {2, last}), state));
    EXPECT_TRUE(same_bits(before.layers[1].ssm, held));
  }
  EXPECT_TRUE(same_bits(mx::concatenate(parts, 1), all));
  EXPECT_TRUE(same_bits(state.layers[1].ssm, whole.layers[1].ssm));
  EXPECT_EQ(mx::max(mx::abs(zeros.layers[0].ssm)).item<float>(), 0.0f);
}

// With the products of AMX, which have no pieces, operations are taken.
TEST(Prompt, TakesOperationsWhereProductsHaveNoPieces) {
  const MambaLM model = model_of({mx::bfloat16, 96, 192, 16, 6, 4});
  ops::linear_detail::amx::set_emulated(true);
  expect_bits_of_operations(model, 1, 77);
  ops::linear_detail::amx::set_emulated(false);
}

}  // namespace
}  // namespace mamba::models
#endif
