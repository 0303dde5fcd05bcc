#include "mamba/generate/adapter.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/initialize.h"
#include "mamba/models/peft.h"
#include "mamba/models/registry.h"

namespace mamba::generate {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;

// A model in `folder`/model and an adapter for it in `folder`/adapter.
void save_model_and_adapter(const fs::path& folder, mx::Dtype dtype = mx::float32) {
  models::Config config;
  config.vocab_size = 11;
  config.d_model = 8;
  config.n_layer = 2;
  models::MambaLM model(config);
  models::initialize(model, 1);
  model.visit("", [&](const std::string& path, mx::array& value) {
    if (path.ends_with("proj.weight") || path.ends_with("embeddings.weight")) {
      value = mx::astype(value, dtype);
    }
  });
  models::save_model(model, folder / "model");
  const models::LoraConfig lora{
      .rank = 2, .target_modules = {.names = models::lora_target_names()}, .base_model = (folder / "model").string()};
  models::add_lora(model, lora, 2);
  models::LoraParameters adapter{model};
  uint64_t seed = 3;
  adapter.visit("", [&](const std::string&, mx::array& value) {
    value = mx::random::normal(value.shape(), mx::float32, mx::random::key(seed++));
  });
  models::save_adapter(model, lora, folder / "adapter");
}

mx::array logits_of(const models::MambaLM& model) {
  models::State state = model.initial_state();
  return model.forward(mx::array({1, 5, 10, 0, 7}, {1, 5}, mx::int32), state);
}

TEST(Adapter, ActsInTheLoadedModelAndWhenMerged) {
  const TemporaryDirectory folder;
  save_model_and_adapter(folder.path());
  write_file(folder / "model/tokenizer.json", "{}");
  const Adapter adapter = resolve_adapter((folder / "adapter").string());
  EXPECT_EQ(adapter.config.base_model, (folder / "model").string());
  const std::string name = adapter.config.base_model;
  const LoadedModel loaded = load(name, {.adapter = adapter}, false);
  const mx::array base = logits_of(load(name, {}, false).model);
  const mx::array expected = logits_of(loaded.model);
  EXPECT_GT(mx::max(mx::abs(mx::subtract(expected, base))).item<float>(), 0.01f);

  merge(resolve_model(name), adapter, folder / "merged");
  EXPECT_EQ(read_file(folder / "merged/tokenizer.json"), "{}");
  const models::MambaLM merged = models::load_model(folder / "merged");
  EXPECT_TRUE(mx::allclose(logits_of(merged), expected, 1e-5, 1e-5).item<bool>());
}

TEST(Merge, RoundsOnceToTheDtypeOfTheModelOrTheOneGiven) {
  const TemporaryDirectory folder;
  save_model_and_adapter(folder.path(), mx::bfloat16);
  const Adapter adapter = resolve_adapter((folder / "adapter").string());
  const Resolved source = resolve_model((folder / "model").string());
  merge(source, adapter, folder / "same");
  merge(source, adapter, folder / "wide", mx::float32);
  models::MambaLM same = models::load_model(folder / "same");
  models::MambaLM wide = models::load_model(folder / "wide");
  EXPECT_EQ(same.dtype(), mx::bfloat16);
  EXPECT_EQ(wide.dtype(), mx::float32);
  const LoadedModel exact = load((folder / "model").string(), {.dtype = mx::float32, .adapter = adapter}, false);
  EXPECT_TRUE(mx::allclose(logits_of(wide), logits_of(exact.model), 1e-5, 1e-5).item<bool>());
  const nn::ParameterMap narrow = nn::parameters(same);
  for (const auto& [path, value] : nn::parameters(wide)) {
    EXPECT_TRUE(mx::array_equal(narrow.at(path), mx::astype(value, narrow.at(path).dtype())).item<bool>()) << path;
  }
}

TEST(ResolveAdapter, SaysWhatIsMissing) {
  const TemporaryDirectory folder;
  EXPECT_THROW(resolve_adapter((folder / "absent").string()), Error);
  EXPECT_THROW(resolve_adapter(""), Error);
  EXPECT_THROW(resolve_adapter(folder.path().string()), Error);  // no adapter_config.json
  write_file(folder / "file", "x");
  EXPECT_THROW(resolve_adapter((folder / "file").string()), UsageError);
}

}  // namespace
}  // namespace mamba::generate
