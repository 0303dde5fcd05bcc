#include "mamba/models/checkpoint.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include "mamba/base/error_testing.h"
#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/io/checkpoint.h"
#include "mamba/models/initialize.h"
#include "mamba/models/registry.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config small_config() {
  Config config;
  config.vocab_size = 11;
  config.d_model = 6;
  config.n_layer = 2;
  config.d_state = 4;
  fill_derived(config);
  return config;
}

MambaLM small_model(const Config& config = small_config()) {
  MambaLM model(config);
  initialize(model, 5);
  return model;
}

// `tensors`, after `change`, as a checkpoint that load_model() is asked to read.
std::string load_message(const std::function<void(std::map<std::string, mx::array>&)>& change,
                         std::optional<Config> config = {}) {
  const TemporaryDirectory folder;
  MambaLM model = small_model();
  std::map<std::string, mx::array> tensors = nn::parameters(model);
  change(tensors);
  write_file(folder / "config.json", json_text(hugging_face_config(config.value_or(small_config()), "float32")));
  io::save_safetensors(folder / "model.safetensors", io::to_save(tensors));
  std::string message = message_of([&] { load_model(folder.path()); });
  const std::string prefix = folder.path().string() + "/";
  const size_t at = message.find(prefix);
  return at == std::string::npos ? message : message.erase(at, prefix.size());
}

TEST(Checkpoint, SaveThenLoadIsBitIdentical) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const TemporaryDirectory folder;
    MambaLM model = small_model();
    model.visit("", [&](const std::string& path, mx::array& value) {
      value = keeps_precision(path) ? value : mx::astype(value, dtype);
    });
    save_model(model, folder.path());
    MambaLM again = load_model(folder.path());
    EXPECT_EQ(again.dtype(), dtype);
    const auto expected = nn::parameters(model);
    const auto got = nn::parameters(again);
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [path, value] : expected) {
      EXPECT_EQ(got.at(path).dtype(), value.dtype()) << path;
      EXPECT_TRUE(mx::array_equal(got.at(path), value).item<bool>()) << path;
    }
  }
}

TEST(Checkpoint, NarrowingKeepsWhatTheRecurrenceDependsOn) {
  const TemporaryDirectory folder;
  MambaLM model = small_model();
  save_model(model, folder.path());
  MambaLM narrow = load_model(folder.path(), mx::bfloat16);
  for (const auto& [path, value] : nn::parameters(narrow)) {
    EXPECT_EQ(value.dtype(), keeps_precision(path) ? mx::float32 : mx::bfloat16) << path;
  }
  // And back: all of it is float32 again.
  const TemporaryDirectory other;
  save_model(narrow, other.path());
  MambaLM wide = load_model(other.path(), mx::float32);
  for (const auto& [path, value] : nn::parameters(wide)) {
    EXPECT_EQ(value.dtype(), mx::float32) << path;
  }
}

TEST(Checkpoint, NamesOfBothLayouts) {
  EXPECT_EQ(parameter_path("backbone.embedding.weight"), "backbone.embeddings.weight");
  EXPECT_EQ(parameter_path("backbone.layers.3.mixer.A_log"), "backbone.layers.3.mixer.A_log");
  EXPECT_EQ(parameter_path("lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(parameter_path("layers.0.norm.weight"), "backbone.layers.0.norm.weight");
  EXPECT_THROW(parameter_shape("backbone.layers.3.mixer.A_log2", small_config()), Error);
}

TEST(Checkpoint, TiedHeadAndMlxConvolutionLayoutAreAccepted) {
  EXPECT_EQ(load_message([](auto& tensors) {
              tensors.insert_or_assign("lm_head.weight", tensors.at("backbone.embeddings.weight"));
              const std::string conv = "backbone.layers.0.mixer.conv1d.weight";
              tensors.insert_or_assign(conv, mx::reshape(tensors.at(conv), {12, 4, 1}));
            }),
            "no error");
}

TEST(Checkpoint, FaultsAreNamed) {
  EXPECT_EQ(load_message([](auto& tensors) { tensors.erase("backbone.layers.1.mixer.D"); }),
            "model.safetensors: lacks backbone.layers.1.mixer.D, which the configuration asks for");
  EXPECT_EQ(load_message([](auto& tensors) { tensors.insert_or_assign("backbone.extra", mx::zeros({2})); }),
            "model.safetensors: holds backbone.extra, for which this configuration has no place");
  EXPECT_EQ(load_message([](auto& tensors) {
              tensors.insert_or_assign("backbone.layers.1.mixer.A_log", mx::zeros({12, 5}));
            }),
            "model.safetensors: backbone.layers.1.mixer.A_log must be (12, 4) for this configuration but is (12, 5)");
  EXPECT_EQ(load_message(
                [](auto& tensors) { tensors.insert_or_assign("backbone.norm_f.weight", mx::zeros({6}, mx::int32)); }),
            "model.safetensors: backbone.norm_f.weight must be float32, bfloat16 or float16 but is int32");
  Config deeper = small_config();
  deeper.n_layer = 3;
  EXPECT_NE(load_message([](auto&) {}, deeper).find("and 7 more, which the configuration asks for"), std::string::npos);
}

TEST(Checkpoint, DtypeNames) {
  EXPECT_EQ(parse_dtype("bfloat16"), mx::bfloat16);
  EXPECT_EQ(dtype_name(mx::float16), "float16");
  EXPECT_THROW(parse_dtype("int8"), UsageError);
}

}  // namespace
}  // namespace mamba::models
