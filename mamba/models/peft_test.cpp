#include "mamba/models/peft.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include "mamba/base/error_testing.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/save.h"
#include "mamba/models/initialize.h"

namespace mamba::models {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

MambaLM small_model() {
  Config config;
  config.vocab_size = 19;
  config.d_model = 10;
  config.n_layer = 2;
  config.d_state = 3;
  MambaLM model(config);
  initialize(model, 1);
  return model;
}

void randomize(MambaLM& model) {
  LoraParameters adapter{model};
  uint64_t seed = 11;
  adapter.visit("", [&](const std::string&, mx::array& value) {
    value = mx::random::normal(value.shape(), mx::float32, mx::random::key(seed++));
  });
}

mx::array logits_of(const MambaLM& model) {
  State state = model.initial_state();
  return model.forward(mx::array({1, 5, 18, 0, 7}, {1, 5}, mx::int32), state);
}

std::string parse_message(const std::string& text) {
  return message_of([&] { parse_adapter_config(text, "a.json"); });
}

// A configuration in which some fields are set otherwise.
std::string with(const std::string& fields) {
  Json json = parse_json(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["in_proj"]})", "test");
  json.update(parse_json(fields, "test"));
  return json_text(json);
}

TEST(AdapterConfig, ReadsWhatPeftWrites) {
  const LoraConfig config = parse_adapter_config(with(R"({
    "alora_invocation_tokens": null, "alpha_pattern": {"x_proj": 3.5}, "arrow_config": null, "auto_mapping": null,
    "base_model_name_or_path": "state-spaces/mamba-130m-hf", "bias": "none", "corda_config": null, "eva_config": null,
    "ensure_weight_tying": false, "exclude_modules": ["layers.1.mixer.in_proj"], "fan_in_fan_out": false,
    "inference_mode": true, "init_lora_weights": true, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": [0, 1], "loftq_config": {}, "lora_bias": false, "lora_dropout": 0.1, "megatron_config": null,
    "megatron_core": "megatron.core", "modules_to_save": null, "peft_version": "0.21.2", "qalora_group_size": 16,
    "revision": "abc", "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null,
    "use_dora": false, "use_qalora": false, "use_rslora": true, "target_modules": ["x_proj", "in_proj"]})"),
                                                 "a.json");
  EXPECT_EQ(config.rank, 2);
  EXPECT_EQ(config.alpha, 4);
  EXPECT_TRUE(config.rslora);
  EXPECT_EQ(config.target_modules.names, (std::vector<std::string>{"x_proj", "in_proj"}));
  EXPECT_EQ(config.exclude_modules.names, std::vector<std::string>{"layers.1.mixer.in_proj"});
  EXPECT_EQ(config.layers_to_transform, (std::vector<int>{0, 1}));
  ASSERT_EQ(config.alpha_pattern.size(), 1u);
  EXPECT_EQ(config.alpha_pattern[0].second, 3.5);
  EXPECT_EQ(config.base_model, "state-spaces/mamba-130m-hf");
  EXPECT_EQ(config.base_revision, "abc");
}

TEST(AdapterConfig, TakesPatternsInTheOrderOfTheFile) {
  const LoraConfig config = parse_adapter_config(with(R"({"target_modules": ".*_proj"})").insert(1, R"("rank_pattern":
    {"z": 1, "a": 2, "m.*": 3},)"),
                                                 "a.json");
  ASSERT_EQ(config.rank_pattern.size(), 3u);
  EXPECT_EQ(config.rank_pattern[0].first, "z");
  EXPECT_EQ(config.rank_pattern[1].first, "a");
  EXPECT_EQ(config.rank_pattern[2].second, 3);
  EXPECT_EQ(config.target_modules.pattern, ".*_proj");
}

TEST(AdapterConfig, AllLinearMeansTheProjections) {
  for (const char* text : {R"({"target_modules": "all-linear"})", R"({"target_modules": "All-Linear"})"}) {
    EXPECT_EQ(parse_adapter_config(with(text), "a.json").target_modules.names, lora_target_names());
  }
}

TEST(AdapterConfig, RefusesWhatIsNotDoneByName) {
  for (const char* fields :
       {R"({"peft_type": "IA3"})", R"({"use_dora": true})", R"({"bias": "all"})", R"({"modules_to_save": ["lm_head"]})",
        R"({"layer_replication": [[0, 1]]})", R"({"lora_bias": true})", R"({"use_qalora": true})",
        R"({"init_lora_weights": "pissa"})", R"({"init_lora_weights": "olora"})", R"({"trainable_token_indices": [1]})",
        R"({"target_parameters": ["A_log"]})"}) {
    const std::string field = parse_json(fields, "test").begin().key();
    const std::string message = parse_message(with(fields));
    EXPECT_EQ(message.find("a.json: field \"" + field + "\" is "), 0u) << message;
    EXPECT_NE(message.find("not supported"), std::string::npos) << message;
  }
}

TEST(AdapterConfig, NamesTheFieldThatIsWrong) {
  EXPECT_EQ(parse_message("[]").find("a.json: "), 0u);
  EXPECT_NE(parse_message("{").find("not valid JSON"), std::string::npos);
  EXPECT_NE(parse_message("{}").find("\"peft_type\" is missing"), std::string::npos);
  for (const char* fields : {R"({"r": 0})",
                             R"({"r": "8"})",
                             R"({"r": 1.5})",
                             R"({"lora_alpha": "x"})",
                             R"({"use_rslora": 1})",
                             R"({"target_modules": null})",
                             R"({"target_modules": []})",
                             R"({"target_modules": 3})",
                             R"({"target_modules": [3]})",
                             R"({"target_modules": "("})",
                             R"({"target_modules": {"in_proj": 1}})",
                             R"({"exclude_modules": 1})",
                             R"({"rank_pattern": []})",
                             R"({"rank_pattern": {"in_proj": 0}})",
                             R"({"rank_pattern": {"in_proj": 2.5}})",
                             R"({"rank_pattern": {"(": 2}})",
                             R"({"alpha_pattern": {"in_proj": "1"}})",
                             R"({"layers_to_transform": [-1]})",
                             R"({"layers_to_transform": ["x"]})",
                             R"({"base_model_name_or_path": 5})"}) {
    const std::string field = parse_json(fields, "test").begin().key();
    const std::string message = parse_message(with(fields));
    EXPECT_NE(message.find(field), std::string::npos) << fields << " gave: " << message;
    EXPECT_EQ(message.find("a.json: "), 0u) << message;
  }
  EXPECT_NE(parse_message(with(R"({"layers_to_transform": 1, "layers_pattern": "blocks"})")).find("layers_pattern"),
            std::string::npos);
}

TEST(AdapterConfig, WritesWhatItReads) {
  LoraConfig config{.rank = 3,
                    .alpha = 6.5,
                    .rslora = true,
                    .target_modules = {.names = {"in_proj", "dt_proj"}},
                    .exclude_modules = {.pattern = ".*1.*"},
                    .layers_to_transform = {0},
                    .rank_pattern = {{"in_proj", 5}, {"dt_proj", 1}},
                    .alpha_pattern = {{"in_proj", 0.5}},
                    .base_model = "someone/model",
                    .base_revision = "main"};
  const std::string text = adapter_config_text(config);
  const LoraConfig again = parse_adapter_config(text, "again");
  EXPECT_EQ(adapter_config_text(again), text);
  EXPECT_EQ(again.alpha, 6.5);
  EXPECT_EQ(again.rank_pattern, config.rank_pattern);
  EXPECT_EQ(again.exclude_modules.pattern, ".*1.*");
  EXPECT_EQ(again.base_model, "someone/model");
}

TEST(Adapter, IsTheSameAfterSavingAndLoading) {
  MambaLM model = small_model();
  const LoraConfig config{
      .rank = 3, .alpha = 5, .target_modules = {.names = lora_target_names()}, .rank_pattern = {{"x_proj", 2}}};
  add_lora(model, config, 1);
  randomize(model);
  const TemporaryDirectory directory;
  save_adapter(model, config, directory.path() / "adapter");
  MambaLM again = small_model();
  EXPECT_EQ(load_adapter(again, directory.path() / "adapter").rank, 3);
  LoraParameters adapter{model};
  LoraParameters adapter_again{again};
  const nn::ParameterMap expected = nn::parameters(adapter);
  const nn::ParameterMap got = nn::parameters(adapter_again);
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [path, value] : expected) {
    EXPECT_TRUE(mx::array_equal(got.at(path), value).item<bool>()) << path;
  }
  EXPECT_TRUE(mx::array_equal(logits_of(again), logits_of(model)).item<bool>());
  const auto file = io::open_safetensors(directory.path() / "adapter" / "adapter_model.safetensors");
  EXPECT_TRUE(file->has("base_model.model.backbone.layers.1.mixer.dt_proj.lora_B.weight"));
  EXPECT_EQ(message_of([&] { load_adapter(again, directory.path() / "adapter"); }),
            "the model has a LoRA adapter already: merge it first");
}

class BrokenAdapter : public ::testing::Test {
 protected:
  void SetUp() override {
    MambaLM model = small_model();
    const LoraConfig config{.rank = 3, .target_modules = {.names = {"in_proj"}}};
    add_lora(model, config, 1);
    save_adapter(model, config, path_);
    LoraParameters adapter{model};
    for (const auto& [path, value] : nn::parameters(adapter)) {
      tensors_.insert_or_assign("base_model.model." + path, value);
    }
  }

  void save() { io::save_safetensors(path_ / "adapter_model.safetensors", io::to_save(tensors_)); }

  // That loading fails with this message, and leaves the model alone.
  void expect_message(const std::string& part) {
    MambaLM model = small_model();
    const std::string message = message_of([&] { load_adapter(model, path_); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find(path_.string()), std::string::npos) << message;
    EXPECT_FALSE(has_lora(model));
  }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "adapter";
  std::map<std::string, mx::array> tensors_;
  const std::string name_ = "base_model.model.backbone.layers.1.mixer.in_proj.lora_A.weight";
};

TEST_F(BrokenAdapter, LacksATensor) {
  tensors_.erase(name_);
  save();
  expect_message("lacks " + name_ + ", which adapter_config.json asks for");
}

TEST_F(BrokenAdapter, HoldsATensorTooMany) {
  tensors_.insert_or_assign("base_model.model.lm_head.lora_A.weight", mx::zeros({3, 10}));
  save();
  expect_message("holds \"base_model.model.lm_head.lora_A.weight\", for which adapter_config.json has no place");
}

TEST_F(BrokenAdapter, HasAnotherRankThanItSays) {
  tensors_.insert_or_assign(name_, mx::zeros({4, 10}));
  save();
  expect_message(name_ + " must be (3, 10) for this model and the rank in adapter_config.json but is (4, 10)");
}

TEST_F(BrokenAdapter, HoldsIntegers) {
  tensors_.insert_or_assign(name_, mx::zeros({3, 10}, mx::int32));
  save();
  expect_message("must be float32, bfloat16 or float16");
}

TEST_F(BrokenAdapter, LacksFiles) {
  fs::remove(path_ / "adapter_model.safetensors");
  expect_message("holds no weights; looked for adapter_model.safetensors, adapter_model.bin");
  fs::remove(path_ / "adapter_config.json");
  expect_message("holds no adapter: adapter_config.json is missing");
  fs::remove(path_);
  expect_message("is no folder with an adapter");
}

TEST_F(BrokenAdapter, NamesModulesThatAreNotThere) {
  write_file(path_ / "adapter_config.json", with(R"({"r": 3, "target_modules": ["in_proj", "q_proj"]})"));
  expect_message("adapter_config.json: LoRA target \"q_proj\" is no layer of this model");
  write_file(path_ / "adapter_config.json", with(R"({"r": 3, "target_modules": ["in_proj", "embeddings"]})"));
  expect_message("backbone.embeddings cannot have a LoRA adapter here");
}

TEST_F(BrokenAdapter, IsWellOtherwiseAndUnderABareBackbonesNames) {
  MambaLM model = small_model();
  load_adapter(model, path_);
  std::map<std::string, mx::array> bare;
  for (const auto& [name, value] : tensors_) {
    std::string shorter = name;
    bare.insert_or_assign(shorter.replace(shorter.find("backbone."), 9, ""), value);
  }
  tensors_ = bare;
  save();
  MambaLM again = small_model();
  load_adapter(again, path_);
  EXPECT_TRUE(mx::array_equal(logits_of(again), logits_of(model)).item<bool>());
}

}  // namespace
}  // namespace mamba::models
