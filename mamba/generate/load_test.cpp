#include "mamba/generate/load.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/initialize.h"
#include "mamba/models/registry.h"

namespace mamba::generate {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;

void save_small_model(const fs::path& folder) {
  models::Config config;
  config.vocab_size = 11;
  config.d_model = 8;
  config.n_layer = 1;
  models::MambaLM model(config);
  models::initialize(model, 1);
  models::save_model(model, folder);
}

TEST(Load, AFolderWithoutTokenizer) {
  const TemporaryDirectory folder;
  save_small_model(folder.path());
  const LoadedModel loaded = load(folder.path().string());
  EXPECT_EQ(loaded.tokenizer, nullptr);
  EXPECT_EQ(loaded.source.directory, folder.path());
  EXPECT_TRUE(loaded.source.repository.empty());
  EXPECT_EQ(loaded.model.config().vocab_size, 11);
}

TEST(Load, CopiesWeightsForThoseWhoReadThemOften) {
  const TemporaryDirectory folder;
  models::Config config;
  config.vocab_size = 5001;
  config.d_model = 128;  // 2.5 MB: more than a large page
  config.n_layer = 1;
  models::MambaLM model(config);
  models::initialize(model, 1);
  models::save_model(model, folder.path());
  const auto in_file = [](const LoadedModel& loaded) {
    return in_mapped_file(loaded.model.embedding_weight().data<char>());
  };
  EXPECT_FALSE(in_file(load(folder.path().string())));
  EXPECT_TRUE(in_file(load(folder.path().string(), {.large_pages = false})));
}

TEST(Load, NamesThatLeadNowhere) {
  const TemporaryDirectory folder;
  EXPECT_THROW(load((folder / "absent").string()), Error);
  EXPECT_THROW(load(""), Error);
  EXPECT_THROW(load("a/b/c"), Error);
  write_file(folder / "file", "x");
  EXPECT_THROW(load((folder / "file").string()), UsageError);
  EXPECT_THROW(load(folder.path().string()), Error);  // no config.json
}

TEST(Convert, WritesAFolderThatLoadsTheSame) {
  const TemporaryDirectory from;
  const TemporaryDirectory to;
  save_small_model(from.path());
  write_file(from / "tokenizer.json", "{}");
  write_file(from / "generation_config.json", R"({"eos_token_id": 3})");
  convert(resolve_model(from.path().string()), to / "out");
  EXPECT_EQ(read_file(to / "out/tokenizer.json"), "{}");
  EXPECT_TRUE(fs::exists(to / "out/tokenizer_config.json"));
  models::MambaLM expected = models::load_model(from.path());
  models::MambaLM got = models::load_model(to / "out");
  EXPECT_EQ(got.config().eos_token_ids, std::vector<int>{3});
  const auto values = nn::parameters(got);
  for (const auto& [path, value] : nn::parameters(expected)) {
    EXPECT_TRUE(mx::array_equal(values.at(path), value).item<bool>()) << path;
  }
  convert(resolve_model(from.path().string()), to / "half", mx::bfloat16);
  EXPECT_EQ(models::load_model(to / "half").dtype(), mx::bfloat16);
  // Onto itself: what was read stays readable.
  convert(resolve_model((to / "half").string()), to / "half");
  EXPECT_EQ(models::load_model(to / "half").dtype(), mx::bfloat16);
}

TEST(Convert, AFolderThatCannotBeWritten) {
  const TemporaryDirectory from;
  save_small_model(from.path());
  write_file(from / "in_the_way", "");
  EXPECT_THROW(convert(resolve_model(from.path().string()), from / "in_the_way/out"), Error);
}

}  // namespace
}  // namespace mamba::generate
