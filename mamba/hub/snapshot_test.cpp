// The files of a model, together.
#include "mamba/hub/testing/fixture.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;
using Names = std::vector<std::string>;

constexpr const char* kShardIndex =
    R"({"metadata": {}, "weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}})";

TEST_F(HubTest, ModelInfo) {
  const std::string weights = noise(12'345);
  const std::string commit = server_.put("o/n", {{"model.safetensors", weights}, {"a/config.json", "{}"}});
  const ModelInfo info = model_info("o/n", "main", options_);
  EXPECT_EQ(info.commit, commit);
  ASSERT_EQ(info.files.size(), 2u);
  EXPECT_EQ(info.files[0].name, "a/config.json");
  EXPECT_EQ(info.files[0].size, 2);
  EXPECT_EQ(info.files[0].etag, HubServer::etag_of("config.json", "{}"));
  EXPECT_EQ(info.files[1].name, "model.safetensors");
  EXPECT_EQ(info.files[1].size, 12'345);
  EXPECT_EQ(info.files[1].etag, HubServer::etag_of("model.safetensors", weights));
  server_.set_faults({.hide_sizes = true});
  EXPECT_EQ(model_info("o/n", "main", options_).files[1].size, -1);
}

TEST_F(HubTest, ModelFilesPreferSafetensors) {
  const std::string commit = server_.put("o/n", {{"README.md", "text"},
                                                 {"config.json", "{}"},
                                                 {"tokenizer.json", "{}"},
                                                 {"model.safetensors", noise(1000)},
                                                 {"pytorch_model.bin", noise(1000, 2)}});
  const Snapshot snapshot = download_files("o/n", "main", model_files(), options_);
  EXPECT_EQ(snapshot.commit, commit);
  EXPECT_EQ(snapshot.folder, repo("models--o--n") / "snapshots" / commit);
  EXPECT_EQ(snapshot.files, (Names{"config.json", "tokenizer.json", "model.safetensors"}));
  EXPECT_EQ(listing(snapshot.folder), (Names{"config.json", "model.safetensors", "tokenizer.json"}));
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/main"), commit);
  EXPECT_TRUE(fs::exists(repo("models--o--n") / ".no_exist" / commit / "generation_config.json"));

  server_.forget_requests();
  download_files("o/n", "main", model_files(), options_);
  EXPECT_EQ(server_.requests().size(), 1u);
  server_.forget_requests();
  options_.offline = true;
  const Snapshot offline = download_files("o/n", "main", model_files(), options_);
  EXPECT_EQ(offline.files, snapshot.files);
  EXPECT_EQ(offline.folder, snapshot.folder);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(HubTest, ModelFilesInShards) {
  server_.put("o/n", {{"config.json", "{}"},
                      {"model.safetensors.index.json", kShardIndex},
                      {"model-1.safetensors", noise(2000)},
                      {"model-2.safetensors", noise(3000, 2)},
                      {"pytorch_model.bin", "x"}});
  const Snapshot snapshot = download_files("o/n", "main", model_files(), options_);
  EXPECT_EQ(snapshot.files,
            (Names{"config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"}));
  EXPECT_EQ(read_file(snapshot.folder / "model-2.safetensors"), noise(3000, 2));
  options_.offline = true;
  EXPECT_EQ(download_files("o/n", "main", model_files(), options_).files, snapshot.files);
  fs::remove(snapshot.folder / "model-1.safetensors");
  expect_error(Kind::kNotCached, "model-1.safetensors is not in the cache",
               [&] { download_files("o/n", "main", model_files(), options_); });
}

TEST_F(HubTest, ModelFilesOfOldRepositories) {
  server_.put("o/one", {{"config.json", "{}"}, {"pytorch_model.bin", "weights"}});
  EXPECT_EQ(download_files("o/one", "main", model_files(), options_).files,
            (Names{"config.json", "pytorch_model.bin"}));
  server_.put("o/two", {{"config.json", "{}"},
                        {"pytorch_model.bin.index.json", R"({"weight_map": {"a": "pytorch_model-1.bin"}})"},
                        {"pytorch_model-1.bin", "w"}});
  EXPECT_EQ(download_files("o/two", "main", model_files(), options_).files,
            (Names{"config.json", "pytorch_model.bin.index.json", "pytorch_model-1.bin"}));
  expect_error(Kind::kEntryNotFound, "has none of tokenizer.json",
               [&] { download_files("o/one", "main", tokenizer_files(), options_); });
}

TEST_F(HubTest, RepositoriesThatAreNoModels) {
  server_.put("o/n", {{"config.json", "{}"}, {"README.md", "x"}});
  expect_error(Kind::kEntryNotFound, "has none of model.safetensors, model.safetensors.index.json",
               [&] { download_files("o/n", "main", model_files(), options_); });
  options_.offline = true;
  expect_error(Kind::kNotCached, "o/never (revision main): it is not in the cache",
               [&] { download_files("o/never", "main", model_files(), options_); });
}

TEST_F(HubTest, IndexesThatLie) {
  const auto with_index = [&](const std::string& index) {
    server_.put("o/n", {{"config.json", "{}"}, {"model.safetensors.index.json", index}});
    download_files("o/n", "main", model_files(), options_);
  };
  for (const char* name : {"../../../evil.safetensors", "/etc/passwd", "a/../../b"}) {
    expect_throw<Error>("refused", [&] { with_index(fmt::format(R"({{"weight_map": {{"a": "{}"}}}})", name)); });
  }
  expect_error(Kind::kEntryNotFound, "gone.safetensors",
               [&] { with_index(R"({"weight_map": {"a": "gone.safetensors"}})"); });
  EXPECT_THROW(with_index(R"({"weight_map": {"a": 3}})"), ParseError);
  EXPECT_THROW(with_index(R"({"weight_map": []})"), ParseError);
  EXPECT_THROW(with_index("[]"), ParseError);
  EXPECT_THROW(with_index("{"), ParseError);
}

TEST_F(HubTest, TheReferenceMovesWhenEverythingIsThere) {
  const std::string before = server_.put("o/n", {{"config.json", "1"}, {"model.safetensors", "old"}});
  download_files("o/n", "main", model_files(), options_);
  const std::string weights = noise(200'000);
  const std::string after = server_.put("o/n", {{"config.json", "2"}, {"model.safetensors", weights}});
  server_.set_faults({.cut_after = 50'000, .cuts = 1});
  options_.tries = 1;
  expect_error(Kind::kUnreachable, "after 50000 of 200000 bytes, which are kept",
               [&] { download_files("o/n", "main", model_files(), options_); });
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/main"), before);
  options_.offline = true;
  EXPECT_EQ(read_file(download_files("o/n", "main", model_files(), options_).folder / "config.json"), "1");
  options_.offline = false;
  const Snapshot snapshot = download_files("o/n", "main", model_files(), options_);
  EXPECT_EQ(snapshot.commit, after);
  EXPECT_EQ(read_file(snapshot.folder / "model.safetensors"), weights);
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/main"), after);
  EXPECT_EQ(server_.requests().back().range, "bytes=50000-");
}

TEST_F(HubTest, SnapshotsFromTheCacheWhenTheHubIsGone) {
  server_.put("o/snap", {{"config.json", "{}"}, {"model.safetensors", "w"}});
  const Snapshot snapshot = download_files("o/snap", "main", model_files(), options_);
  options_.endpoint = "http://127.0.0.1:1";
  EXPECT_EQ(download_files("o/snap", "main", model_files(), options_).folder, snapshot.folder);
  ASSERT_EQ(warnings_.size(), 1u);
  expect_error(Kind::kUnreachable, "127.0.0.1", [&] { download_files("o/x", "main", model_files(), options_); });
}

TEST_F(HubTest, FilesThatCannotFit) {
  const std::string listing = R"({"sha": "0123456789012345678901234567890123456789", "siblings": [
      {"rfilename": "config.json", "size": 2, "blobId": "9e26dfeeb6e641a33dae4961196235bdb965b21b"},
      {"rfilename": "model.safetensors", "lfs": {"size": 4611686018427387904,
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"}}]})";
  server_.set_faults({.info = listing});
  server_.put("o/n", {{"config.json", "{}"}});
  expect_throw<Error>("4611686018427387906 more bytes are needed",
                      [&] { download_files("o/n", "main", model_files(), options_); });
  EXPECT_EQ(server_.count("GET", "resolve"), 0);
}

}  // namespace
}  // namespace mamba::hub::testing
