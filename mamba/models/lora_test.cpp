// An adapter must act on every layer that it names, whichever way the model takes through its weights.
#include "mamba/models/lora.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <numeric>

#include "mamba/base/error_testing.h"
#include "mamba/models/initialize.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config awkward_config(bool bias = false) {
  Config config;
  config.vocab_size = 53;
  config.d_model = 37;
  config.n_layer = 3;
  config.d_state = 8;
  config.d_conv = 3;
  config.bias = bias;
  config.initializer_range = 1.0;
  return config;
}

MambaLM awkward_model(bool bias = false) {
  MambaLM model(awkward_config(bias));
  initialize(model, 3);
  // Steps of about 1 instead of 0.01, so that what dt_proj gives is felt.
  model.visit("", [](const std::string& path, mx::array& value) {
    if (path.ends_with("dt_proj.bias")) {
      value = mx::multiply(mx::random::normal(value.shape(), mx::float32, mx::random::key(4)), mx::array(0.5f));
    }
  });
  return model;
}

// Both factors away from their starting values; `of_dt` more where dt_proj's are concerned.
void randomize(MambaLM& model, uint64_t seed, float of_dt = 1) {
  LoraParameters adapter{model};
  adapter.visit("", [&](const std::string& path, mx::array& value) {
    const bool to_dt = path.find("dt_proj.lora_B") != std::string::npos;
    const float scale = to_dt ? 0.3f * of_dt : path.ends_with("lora_B.weight") ? 0.3f : 0.2f;
    value = mx::multiply(mx::random::normal(value.shape(), mx::float32, mx::random::key(seed++)), mx::array(scale));
  });
}

mx::array some_tokens(int batch, int count, uint64_t seed) {
  return mx::random::randint(0, 53, {batch, count}, mx::int32, mx::random::key(seed));
}

mx::array logits_of(const MambaLM& model, const mx::array& tokens) {
  State state = model.initial_state(tokens.shape(0));
  return model.forward(tokens, state);
}

// The same tokens one by one, the way generation feeds them.
mx::array logits_by_steps(const MambaLM& model, const mx::array& tokens) {
  State state = model.initial_state(tokens.shape(0));
  std::vector<mx::array> steps;
  for (int t = 0; t < tokens.shape(1); ++t) {
    steps.push_back(model.forward(mx::slice(tokens, {0, t}, {tokens.shape(0), t + 1}), state));
  }
  return mx::concatenate(steps, 1);
}

float largest_difference(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

TEST(AddLora, ChangesNothingAtFirst) {
  MambaLM model = awkward_model();
  const mx::array tokens = some_tokens(2, 41, 1);
  const mx::array before = logits_of(model, tokens);
  add_lora(model, {.rank = 4, .target_modules = {.names = lora_target_names()}}, 0);
  EXPECT_LT(largest_difference(logits_of(model, tokens), before), 1e-6f);
}

TEST(AddLora, EachTargetAloneActsLikeItsMergedWeights) {
  for (const bool bias : {false, true}) {
    const mx::array tokens = some_tokens(2, 45, 2);
    const mx::array base = logits_of(awkward_model(bias), tokens);
    for (const std::string& target : lora_target_names()) {
      SCOPED_TRACE(target);
      MambaLM model = awkward_model(bias);
      add_lora(model, {.rank = 3, .alpha = 5, .target_modules = {.names = {target}}}, 1);
      randomize(model, 7, 10);  // dt_proj's inputs are small numbers in a fresh model
      MambaLM merged = model;
      merge_lora(merged);
      EXPECT_FALSE(has_lora(merged));
      const mx::array expected = logits_of(merged, tokens);
      EXPECT_GT(largest_difference(expected, base), 0.02f);
      EXPECT_LT(largest_difference(logits_of(model, tokens), expected), 1e-4f);
      EXPECT_LT(largest_difference(logits_by_steps(model, tokens), expected), 1e-4f);
      model.prepare();
      EXPECT_LT(largest_difference(logits_of(model, tokens), expected), 1e-4f);
      EXPECT_LT(largest_difference(logits_by_steps(model, tokens), expected), 1e-4f);
    }
  }
}

TEST(AddLora, PaddedRowsGetExactlyWhatTheyGetAlone) {
  MambaLM model = awkward_model();
  add_lora(model, {.rank = 5, .target_modules = {.names = lora_target_names()}}, 1);
  randomize(model, 8);
  const mx::array tokens = some_tokens(3, 60, 3);
  const Spans spans = {{0, 60}, {17, 60}, {0, 5}};
  State state = model.initial_state(3);
  const mx::array together = model.forward(tokens, state, {.spans = spans});
  for (int b = 0; b < 3; ++b) {
    const Span span = spans[static_cast<size_t>(b)];
    const mx::array alone = logits_of(model, mx::slice(tokens, {b, span.begin}, {b + 1, span.end}));
    EXPECT_TRUE(mx::array_equal(mx::slice(together, {b, span.begin, 0}, {b + 1, span.end, 53}), alone).item<bool>())
        << "row " << b;
  }
}

TEST(AddLora, SixteenBitWeightsTakeFloat32Adapters) {
  MambaLM exact = awkward_model();
  add_lora(exact, {.rank = 4, .target_modules = {.names = lora_target_names()}}, 2);
  randomize(exact, 9);
  MambaLM narrow = exact;
  narrow.visit("", [&](const std::string& path, mx::array& value) {
    if (value.ndim() == 2 && !path.ends_with("A_log")) {
      value = mx::astype(value, mx::bfloat16);
    }
  });
  const mx::array tokens = some_tokens(1, 70, 4);
  const mx::array expected = logits_of(exact, tokens);
  const float scale = mx::max(mx::abs(expected)).item<float>();
  EXPECT_LT(largest_difference(logits_of(narrow, tokens), expected), 0.06f * scale);
  merge_lora(narrow);
  EXPECT_EQ(narrow.dtype(), mx::bfloat16);
  EXPECT_LT(largest_difference(logits_of(narrow, tokens), expected), 0.06f * scale);
}

TEST(AddLora, GradientsEqualThoseThroughTheMergedWeights) {
  MambaLM model = awkward_model();
  add_lora(model, {.rank = 2, .target_modules = {.names = lora_target_names()}}, 3);
  randomize(model, 10);
  LoraParameters adapter{model};
  const std::vector<mx::array> values = nn::parameter_list(adapter);
  ASSERT_EQ(values.size(), 3u * 4u * 2u);
  const mx::array tokens = some_tokens(2, 33, 5);
  const mx::array weights = mx::random::normal({2, 33, 53}, mx::float32, mx::random::key(6));
  std::vector<int> all(values.size());
  std::iota(all.begin(), all.end(), 0);
  const auto gradients = [&](bool merge) {
    const auto loss = [&](const std::vector<mx::array>& in) {
      MambaLM copy = model;
      LoraParameters own{copy};
      nn::set_parameter_list(own, in);
      if (merge) {
        copy.visit_linears("", [](const std::string&, nn::Linear& layer) {
          layer.weight = mx::add(layer.weight, layer.lora->product());
          layer.lora.reset();
        });
      }
      const mx::array hidden = copy.hidden(tokens, copy.initial_state(2)).first;
      return mx::sum(mx::multiply(copy.logits(hidden), weights));
    };
    return mx::value_and_grad(loss, all)(values).second;
  };
  const std::vector<mx::array> expected = gradients(true);
  const std::vector<mx::array> got = gradients(false);
  for (size_t i = 0; i < got.size(); ++i) {
    const float scale = mx::max(mx::abs(expected[i])).item<float>();
    EXPECT_GT(scale, 0.0f) << "array " << i;
    EXPECT_LT(largest_difference(got[i], expected[i]), 1e-4f * scale) << "array " << i;
  }
}

TEST(LoraParameters, AreApartFromTheModels) {
  MambaLM model = awkward_model();
  const size_t before = nn::parameter_list(model).size();
  add_lora(model, {.rank = 6, .target_modules = {.names = {"x_proj", "dt_proj"}}}, 4);
  EXPECT_EQ(nn::parameter_list(model).size(), before);
  LoraParameters adapter{model};
  const nn::ParameterMap map = nn::parameters(adapter);
  EXPECT_EQ(map.size(), 3u * 2u * 2u);
  EXPECT_EQ(map.at("backbone.layers.2.mixer.dt_proj.lora_A.weight").shape(), (mx::Shape{6, 3}));
  EXPECT_EQ(map.at("backbone.layers.0.mixer.x_proj.lora_B.weight").shape(), (mx::Shape{3 + 2 * 8, 6}));
}

TEST(AddLora, TheSameSeedGivesTheSameValues) {
  const auto values = [](uint64_t seed) {
    MambaLM model = awkward_model();
    add_lora(model, {.target_modules = {.names = {"in_proj"}}}, seed);
    LoraParameters adapter{model};
    return nn::parameter_list(adapter);
  };
  EXPECT_TRUE(mx::array_equal(values(1)[0], values(1)[0]).item<bool>());
  EXPECT_FALSE(mx::array_equal(values(1)[0], values(2)[0]).item<bool>());
  EXPECT_FALSE(mx::array_equal(values(1)[0], values(1)[2]).item<bool>());
}

TEST(LoraModules, FollowPatternsLayersAndExclusions) {
  const LoraConfig config{.rank = 8,
                          .alpha = 16,
                          .target_modules = {.names = {"in_proj", "dt_proj"}},
                          .exclude_modules = {.names = {"layers.1.mixer.dt_proj"}},
                          .layers_to_transform = {0, 1},
                          .rank_pattern = {{"layers.0.mixer.in_proj", 2}, {"in_proj", 4}},
                          .alpha_pattern = {{R"(.*\.dt_proj)", 1}}};
  const std::vector<LoraModule> modules = lora_modules(config, awkward_config());
  ASSERT_EQ(modules.size(), 3u);
  EXPECT_EQ(modules[0].path, "backbone.layers.0.mixer.in_proj");
  EXPECT_EQ(modules[0].rank, 2);
  EXPECT_FLOAT_EQ(modules[0].scale, 8.0f);
  EXPECT_EQ(modules[1].path, "backbone.layers.0.mixer.dt_proj");
  EXPECT_FLOAT_EQ(modules[1].scale, 1.0f / 8.0f);
  EXPECT_EQ(modules[2].rank, 4);
  LoraConfig stabilised = config;
  stabilised.rslora = true;
  EXPECT_FLOAT_EQ(lora_modules(stabilised, awkward_config())[2].scale, 16.0f / 2.0f);
}

TEST(LoraModules, SayWhatIsWrong) {
  const auto message = [](LoraConfig config) {
    return message_of<UsageError>([&] { lora_modules(config, awkward_config()); });
  };
  EXPECT_EQ(message({.target_modules = {.names = {"q_proj"}}}),
            "LoRA target \"q_proj\" is no layer of this model: choose among in_proj, x_proj, dt_proj, out_proj");
  EXPECT_EQ(
      message({.target_modules = {.names = {"conv1d"}}}),
      "backbone.layers.0.mixer.conv1d cannot have a LoRA adapter here: choose LoRA targets among in_proj, x_proj, "
      "dt_proj, out_proj");
  EXPECT_EQ(message({.target_modules = {.names = {"lm_head"}}}).find("lm_head cannot have a LoRA adapter here"), 0u);
  EXPECT_EQ(message({.target_modules = {.pattern = ".*embeddings"}}).find("backbone.embeddings cannot have"), 0u);
  EXPECT_EQ(message({.target_modules = {.pattern = "nothing"}}),
            "the LoRA targets mean no layer of this model: choose among in_proj, x_proj, dt_proj, out_proj");
  EXPECT_EQ(message({}),
            "the LoRA targets mean no layer of this model: choose among in_proj, x_proj, dt_proj, out_proj");
  EXPECT_EQ(message({.rank = 0, .target_modules = {.names = {"in_proj"}}}),
            "the rank of LoRA adapters must be at least 1 but is 0 for backbone.layers.0.mixer.in_proj");
  MambaLM model = awkward_model();
  const LoraConfig config{.target_modules = {.names = {"in_proj"}}};
  add_lora(model, config, 0);
  EXPECT_EQ(message_of<UsageError>([&] { add_lora(model, config, 0); }),
            "the model has a LoRA adapter already: merge it first");
}

}  // namespace
}  // namespace mamba::models
