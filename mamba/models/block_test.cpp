// Computing blocks again in the backward pass must change memory alone.
#include "mamba/models/block.h"

#include <gtest/gtest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <numeric>

#include "mamba/models/initialize.h"
#include "mamba/models/lora.h"
#include "mamba/models/mamba.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

MambaLM some_model(int n_layer, int d_model, bool residual_in_fp32 = true) {
  Config config;
  config.vocab_size = 53;
  config.d_model = d_model;
  config.n_layer = n_layer;
  config.d_state = 8;
  config.d_conv = 3;
  config.bias = true;
  config.residual_in_fp32 = residual_in_fp32;
  MambaLM model(config);
  initialize(model, 3);
  return model;
}

void add_random_lora(MambaLM& model) {
  add_lora(model, {.rank = 3, .target_modules = {.names = lora_target_names()}}, 1);
  LoraParameters adapter{model};
  uint64_t seed = 5;
  adapter.visit("", [&](const std::string&, mx::array& value) {
    value = mx::multiply(mx::random::normal(value.shape(), mx::float32, mx::random::key(seed++)), mx::array(0.2f));
  });
}

std::vector<int> up_to(size_t count) {
  std::vector<int> all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// Random numbers of a state's shapes and dtypes.
State some_state(const MambaLM& model, int batch) {
  State state = model.initial_state(batch);
  uint64_t seed = 20;
  for (LayerState& layer : state.layers) {
    for (mx::array* a : {&layer.conv, &layer.ssm}) {
      *a = mx::astype(mx::random::normal(a->shape(), mx::float32, mx::random::key(seed++)), a->dtype());
    }
  }
  return state;
}

// Value and gradients of a loss of everything that comes out, in everything that goes in: parameters, adapters, and
// the state before.
std::vector<mx::array> loss_and_gradients(const MambaLM& model, const State& state, ForwardOptions options,
                                          bool recompute) {
  options.recompute = recompute;
  MambaLM source = model;
  LoraParameters source_lora{source};
  std::vector<mx::array> inputs = nn::parameter_list(source);
  const size_t lora_begin = inputs.size();
  for (const mx::array& value : nn::parameter_list(source_lora)) {
    inputs.push_back(value);
  }
  const size_t state_begin = inputs.size();
  for (const mx::array& value : state.arrays()) {
    inputs.push_back(value);
  }
  const mx::array tokens = mx::random::randint(0, 53, {state.batch(), 37}, mx::int32, mx::random::key(2));
  const auto loss = [&](const std::vector<mx::array>& in) {
    const auto at = [&](size_t i) { return in.begin() + static_cast<std::ptrdiff_t>(i); };
    MambaLM copy = model;
    LoraParameters lora{copy};
    nn::set_parameter_list(copy, {at(0), at(lora_begin)});
    nn::set_parameter_list(lora, {at(lora_begin), at(state_begin)});
    State from = state;
    for (size_t i = 0; i < from.layers.size(); ++i) {
      from.layers[i] = {in[state_begin + 2 * i], in[state_begin + 2 * i + 1]};
    }
    const auto [hidden, to] = copy.hidden(tokens, from, options);
    mx::array sum = mx::sum(mx::square(copy.logits(hidden)));
    for (const mx::array& a : to.arrays()) {
      sum = mx::add(sum, mx::sum(mx::square(mx::astype(a, mx::float32))));
    }
    return sum;
  };
  auto [value, gradients] = mx::value_and_grad(loss, up_to(inputs.size()))(inputs);
  gradients.push_back(value);
  mx::eval(gradients);
  return gradients;
}

void expect_same_bits(const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(mx::array_equal(a[i], b[i]).item<bool>()) << "array " << i;
    EXPECT_TRUE(mx::any(mx::not_equal(a[i], mx::array(0.0f, a[i].dtype()))).item<bool>()) << "array " << i;
  }
}

TEST(RecomputedBlock, GivesTheGradientsBitForBit) {
  for (const bool lora : {false, true}) {
    MambaLM model = some_model(3, 21);
    if (lora) {
      add_random_lora(model);
    }
    std::vector<uint8_t> resets(2 * 37, 0);
    resets[11] = resets[37 + 20] = 1;
    const ForwardOptions packed{.resets = mx::array(resets.begin(), {2, 37}, mx::uint8)};
    const ForwardOptions padded{.spans = Spans{{0, 30}, {5, 37}}};
    const State state = some_state(model, 2);
    for (const ForwardOptions& options : {ForwardOptions{}, packed, padded}) {
      expect_same_bits(loss_and_gradients(model, state, options, false),
                       loss_and_gradients(model, state, options, true));
    }
  }
}

TEST(RecomputedBlock, GivesTheGradientsOfSixteenBitWeightsBitForBit) {
  for (const bool residual_in_fp32 : {false, true}) {
    MambaLM model = some_model(2, 16, residual_in_fp32);
    model.visit("", [&](const std::string& path, mx::array& value) {
      if (value.ndim() == 2 && !path.ends_with("A_log")) {
        value = mx::astype(value, mx::bfloat16);
      }
    });
    add_random_lora(model);
    const State state = some_state(model, 2);
    expect_same_bits(loss_and_gradients(model, state, {}, false), loss_and_gradients(model, state, {}, true));
  }
}

TEST(RecomputedBlock, GivesTheSameForwardPass) {
  MambaLM model = some_model(3, 21);
  model.prepare();
  const mx::array tokens = mx::random::randint(0, 53, {1, 50}, mx::int32, mx::random::key(3));
  const auto [expected, expected_state] = model.hidden(tokens, model.initial_state());
  const auto [got, state] = model.hidden(tokens, model.initial_state(), {.recompute = true});
  EXPECT_TRUE(mx::array_equal(got, expected).item<bool>());
  for (size_t i = 0; i < state.layers.size(); ++i) {
    EXPECT_TRUE(mx::array_equal(state.layers[i].ssm, expected_state.layers[i].ssm).item<bool>());
    EXPECT_TRUE(mx::array_equal(state.layers[i].conv, expected_state.layers[i].conv).item<bool>());
  }
}

// The most memory that a loss and its gradients take, without what was there before.
size_t peak_memory(MambaLM& model, bool recompute) {
  const std::vector<mx::array> parameters = nn::parameter_list(model);
  const mx::array tokens = mx::random::randint(0, 53, {1, 512}, mx::int32, mx::random::key(4));
  const auto loss = [&](const std::vector<mx::array>& in) {
    MambaLM copy = model;
    nn::set_parameter_list(copy, in);
    const mx::array hidden = copy.hidden(tokens, copy.initial_state(), {.recompute = recompute}).first;
    return mx::sum(mx::square(hidden));
  };
  mx::eval(tokens);
  const size_t before = mx::get_active_memory();
  mx::reset_peak_memory();
  auto [value, gradients] = mx::value_and_grad(loss, up_to(parameters.size()))(parameters);
  gradients.push_back(value);
  mx::eval(gradients);
  return mx::get_peak_memory() - before;
}

TEST(RecomputedBlock, KeepsAFractionOfTheMemory) {
  MambaLM model = some_model(24, 64);
  const size_t all = peak_memory(model, false);
  const size_t recomputed = peak_memory(model, true);
  // A block keeps about 13 arrays of (L, d_model), a recomputed one 2; the gradients take what they take.
  EXPECT_LT(recomputed, all / 2) << all;
}

}  // namespace
}  // namespace mamba::models
