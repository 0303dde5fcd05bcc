// What downloads leave in the cache, and what is asked of whom.
#include <algorithm>

#include "mamba/hub/cache.h"
#include "mamba/hub/testing/fixture.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;

TEST_F(HubTest, LayoutIsThatOfHuggingfaceHub) {
  const std::string weights = noise(100'003);
  const std::string config = "{\"d_model\": 8}";
  const std::string commit =
      server_.put("owner/name", {{"model.safetensors", weights}, {"sub/dir/config.json", config}});
  const fs::path a = download("owner/name", "model.safetensors", "main", options_);
  const fs::path b = download("owner/name", "sub/dir/config.json", "main", options_);
  const fs::path folder = repo("models--owner--name");
  EXPECT_EQ(a, folder / "snapshots" / commit / "model.safetensors");
  EXPECT_EQ(b, folder / "snapshots" / commit / "sub/dir/config.json");
  EXPECT_EQ(read_file(a), weights);
  EXPECT_EQ(read_file(b), config);
  const std::string a_tag = HubServer::etag_of("model.safetensors", weights);
  const std::string b_tag = HubServer::etag_of("config.json", config);
  EXPECT_EQ(a_tag.size(), 64u);
  EXPECT_EQ(b_tag.size(), 40u);
  EXPECT_EQ(fs::read_symlink(a), "../../blobs/" + a_tag);
  EXPECT_EQ(fs::read_symlink(b), "../../../../blobs/" + b_tag);
  EXPECT_EQ(read_file(folder / "refs/main"), commit);
  std::vector<std::string> tags{a_tag, b_tag};
  std::sort(tags.begin(), tags.end());
  EXPECT_EQ(listing(folder / "blobs"), tags);
  EXPECT_TRUE(fs::exists(options_.cache_directory / ".locks/models--owner--name" / (a_tag + ".lock")));
  EXPECT_TRUE(fs::exists(options_.cache_directory / "CACHEDIR.TAG"));
  for (const SeenRequest& request : server_.requests()) {
    EXPECT_EQ(request.accept_encoding, "identity");
    EXPECT_TRUE(request.user_agent.starts_with("mlx-mamba/")) << request.user_agent;
    EXPECT_EQ(request.authorization, "");
  }
}

TEST_F(HubTest, WhatIsThereIsNotFetchedAgain) {
  const std::string commit = server_.put("o/n", {{"config.json", "{}"}});
  const fs::path path = download("o/n", "config.json", "main", options_);
  server_.forget_requests();
  EXPECT_EQ(download("o/n", "config.json", "main", options_), path);
  EXPECT_EQ(server_.count("HEAD", ""), 1);
  EXPECT_EQ(server_.count("GET", ""), 0);
  server_.forget_requests();
  EXPECT_EQ(download("o/n", "config.json", commit, options_), path);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(HubTest, EmptyFilesAndAwkwardNames) {
  const std::string name = "a b/\xc3\xbc#?%41+&.json";
  server_.put("o/n", {{name, "{}"}, {"empty.txt", ""}});
  EXPECT_EQ(read_file(download("o/n", name, "main", options_)), "{}");
  EXPECT_EQ(read_file(download("o/n", "empty.txt", "main", options_)), "");
  EXPECT_EQ(server_.count("GET", "a%20b/%C3%BC%23%3F%2541%2B%26.json"), 1);
}

TEST_F(HubTest, ABranchThatMovesKeepsWhatDidNotChange) {
  const std::string before = server_.put("o/n", {{"same.bin", "same"}, {"config.json", "1"}});
  download("o/n", "same.bin", "main", options_);
  download("o/n", "config.json", "main", options_);
  const std::string after = server_.put("o/n", {{"same.bin", "same"}, {"config.json", "2"}});
  ASSERT_NE(before, after);
  server_.forget_requests();
  EXPECT_EQ(read_file(download("o/n", "same.bin", "main", options_)), "same");
  EXPECT_EQ(server_.count("GET", ""), 0);
  EXPECT_EQ(read_file(download("o/n", "config.json", "main", options_)), "2");
  EXPECT_EQ(read_file(download("o/n", "config.json", before, options_)), "1");
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/main"), after);
}

TEST_F(HubTest, RevisionsWithSlashes) {
  const std::string commit = server_.put("o/n", {{"config.json", "pr"}}, "refs/pr/1");
  EXPECT_EQ(read_file(download("o/n", "config.json", "refs/pr/1", options_)), "pr");
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/refs/pr/1"), commit);
  EXPECT_EQ(server_.count("HEAD", "/o/n/resolve/refs%2Fpr%2F1/config.json"), 1);
  options_.offline = true;
  EXPECT_EQ(read_file(download("o/n", "config.json", "refs/pr/1", options_)), "pr");
}

TEST_F(HubTest, RenamedRepositoriesAreFollowed) {
  server_.put("new/name", {{"config.json", "{}"}, {"model.safetensors", "w"}});
  server_.rename("old", "new/name");
  options_.token = "secret";
  EXPECT_EQ(read_file(download("old", "config.json", "main", options_)), "{}");
  EXPECT_TRUE(fs::exists(repo("models--old") / "refs/main"));
  EXPECT_EQ(model_info("old", "main", options_).files.size(), 2u);
  for (const SeenRequest& request : server_.requests()) {
    EXPECT_EQ(request.authorization, "Bearer secret") << request.path;
  }
}

TEST_F(HubTest, TheTokenStaysWithTheEndpoint) {
  const std::string weights = noise(300'000);
  server_.put("o/n", {{"model.safetensors", weights}});
  server_.set_faults({.token = "secret", .cut_after = 100'000, .cuts = 2, .lfs_elsewhere = true});
  options_.token = "secret";
  EXPECT_EQ(read_file(download("o/n", "model.safetensors", "main", options_)), weights);
  int elsewhere = 0;
  for (const SeenRequest& request : server_.requests()) {
    elsewhere += request.elsewhere ? 1 : 0;
    EXPECT_EQ(request.authorization, request.elsewhere ? "" : "Bearer secret") << request.path;
  }
  EXPECT_EQ(elsewhere, 3);
}

TEST_F(HubTest, TokensMissingAndWrong) {
  server_.put("o/n", {{"config.json", "{}"}});
  server_.set_faults({.token = "secret"});
  expect_error(Kind::kUnauthorized, "set HF_TOKEN", [&] { download("o/n", "config.json", "main", options_); });
  expect_error(Kind::kUnauthorized, "set HF_TOKEN", [&] { model_info("o/n", "main", options_); });
  EXPECT_EQ(server_.requests().size(), 2u);  // asking again cannot help
  options_.token = "wrong";
  expect_error(Kind::kUnauthorized, "HF_TOKEN is wrong or expired",
               [&] { download("o/n", "config.json", "main", options_); });
  options_.token = "evil\r\nX-Header: 1";
  expect_throw<UsageError>("HF_TOKEN", [&] { download("o/n", "config.json", "main", options_); });
  options_.token = "secret";
  EXPECT_EQ(read_file(download("o/n", "config.json", "main", options_)), "{}");
}

TEST_F(HubTest, MissingRepositoriesRevisionsAndFiles) {
  const std::string commit = server_.put("o/n", {{"config.json", "{}"}});
  expect_error(Kind::kUnauthorized, "either o/other does not exist, or it is private",
               [&] { download("o/other", "config.json", "main", options_); });
  expect_error(Kind::kRevisionNotFound, "no revision \"v9\"", [&] { download("o/n", "config.json", "v9", options_); });
  expect_error(Kind::kRevisionNotFound, "no revision \"v9\"", [&] { model_info("o/n", "v9", options_); });
  expect_error(Kind::kEntryNotFound, "\"nope.json\" of o/n (revision main)",
               [&] { download("o/n", "nope.json", "main", options_); });
  server_.set_faults({.token = "t"});
  options_.token = "t";
  expect_error(Kind::kRepositoryNotFound, "check the name \"o/other\"",
               [&] { download("o/other", "config.json", "main", options_); });
  server_.set_faults({.gated = true});
  expect_error(Kind::kUnauthorized, "accept the model's terms at " + server_.endpoint() + "/o/n",
               [&] { download("o/n", "config.json", "main", options_); });
  options_.endpoint += "/mirror/without/a/hub";
  expect_error(Kind::kRepositoryNotFound, "not found at", [&] { model_info("o/n", "main", options_); });
}

TEST_F(HubTest, AbsentFilesAreRemembered) {
  const std::string commit = server_.put("o/n", {{"config.json", "{}"}});
  EXPECT_EQ(try_download("o/n", "sub/nope.json", "main", options_), std::nullopt);
  EXPECT_TRUE(fs::exists(repo("models--o--n") / ".no_exist" / commit / "sub/nope.json"));
  EXPECT_EQ(read_file(repo("models--o--n") / "refs/main"), commit);
  server_.forget_requests();
  EXPECT_EQ(try_download("o/n", "sub/nope.json", commit, options_), std::nullopt);
  EXPECT_TRUE(server_.requests().empty());
  options_.offline = true;
  EXPECT_EQ(try_download("o/n", "sub/nope.json", "main", options_), std::nullopt);
  expect_error(Kind::kNotCached, "HF_HUB_OFFLINE", [&] { try_download("o/n", "unknown.json", "main", options_); });
}

TEST_F(HubTest, OfflineAsksNobody) {
  server_.put("o/n", {{"config.json", "{}"}});
  const fs::path path = download("o/n", "config.json", "main", options_);
  server_.forget_requests();
  options_.offline = true;
  EXPECT_EQ(download("o/n", "config.json", "main", options_), path);
  EXPECT_EQ(find_cached("o/n", "config.json", "main", options_), path);
  EXPECT_EQ(find_cached("o/n", "config.json", "v2", options_), std::nullopt);
  expect_error(Kind::kNotCached, options_.cache_directory.string(),
               [&] { download("o/other", "config.json", "main", options_); });
  expect_error(Kind::kNotCached, "offline", [&] { model_info("o/n", "main", options_); });
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(HubTest, TheCacheServesWhenTheHubDoesNot) {
  server_.put("o/served", {{"config.json", "{}"}});
  const fs::path path = download("o/served", "config.json", "main", options_);
  server_.set_faults({.unavailable = 1000});
  server_.forget_requests();
  EXPECT_EQ(download("o/served", "config.json", "main", options_), path);
  EXPECT_EQ(server_.requests().size(), 1u);  // at once, not after five tries
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("using the cached copy"), std::string::npos) << warnings_[0];
  options_.endpoint = "http://127.0.0.1:1";
  EXPECT_EQ(download("o/served", "config.json", "main", options_), path);
}

TEST_F(HubTest, WithoutSymlinks) {
  const std::string weights = noise(1000);
  server_.put("o/n", {{"a.bin", weights}, {"b.bin", weights}, {"c.bin", weights}});
  options_.symlinks = false;
  const fs::path a = download("o/n", "a.bin", "main", options_);
  EXPECT_FALSE(fs::is_symlink(a));
  EXPECT_EQ(read_file(a), weights);
  EXPECT_TRUE(listing(repo("models--o--n") / "blobs").empty());
  options_.symlinks = true;
  const fs::path b = download("o/n", "b.bin", "main", options_);
  EXPECT_TRUE(fs::is_symlink(b));
  options_.symlinks = false;
  const fs::path c = download("o/n", "c.bin", "main", options_);
  EXPECT_FALSE(fs::is_symlink(c));
  EXPECT_EQ(read_file(c), weights);
  EXPECT_EQ(read_file(b), weights);  // still there
  EXPECT_EQ(listing(c.parent_path()), (std::vector<std::string>{"a.bin", "b.bin", "c.bin"}));
}

TEST_F(HubTest, DanglingLinksAndDamagedBlobsAreReplaced) {
  const std::string weights = noise(5000);
  server_.put("o/n", {{"a.bin", weights}});
  const fs::path a = download("o/n", "a.bin", "main", options_);
  const fs::path blob = fs::canonical(a);
  fs::remove(blob);
  fs::create_symlink("../../blobs/ab/gone", blob);  // a shared blob that was collected
  EXPECT_EQ(read_file(download("o/n", "a.bin", "main", options_)), weights);
  fs::remove(a);
  fs::resize_file(blob, 17);
  EXPECT_EQ(read_file(download("o/n", "a.bin", "main", options_)), weights);
  EXPECT_EQ(listing(a.parent_path()), std::vector<std::string>{"a.bin"});
}

TEST_F(HubTest, BadReferenceFiles) {
  server_.put("o/n", {{"config.json", "{}"}});
  fs::create_directories(repo("models--o--n") / "refs");
  write_file(repo("models--o--n") / "refs/main", "../../../../etc");
  options_.offline = true;
  expect_throw<ParseError>("must hold a commit", [&] { download("o/n", "config.json", "main", options_); });
}

TEST_F(HubTest, ProgressCountsUpAndCancelling) {
  const std::string weights = noise(3'000'000);
  server_.put("o/n", {{"model.safetensors", weights}});
  server_.set_faults({.bytes_per_second = 10'000'000});
  struct Cancelled {};
  EXPECT_THROW(download("o/n", "model.safetensors", "main", options_,
                        [](const Progress& progress) {
                          if (progress.done > 1'000'000) {
                            throw Cancelled();
                          }
                        }),
               Cancelled);
  const fs::path partial =
      repo("models--o--n") / "blobs" / (HubServer::etag_of("model.safetensors", weights) + ".incomplete");
  const auto kept = static_cast<int64_t>(fs::file_size(partial));
  EXPECT_GT(kept, 1'000'000);
  server_.set_faults({});
  server_.forget_requests();
  std::vector<Progress> seen;
  const fs::path path = download("o/n", "model.safetensors", "main", options_,
                                 [&](const Progress& progress) { seen.push_back(progress); });
  EXPECT_EQ(read_file(path), weights);
  EXPECT_EQ(server_.requests().back().range, fmt::format("bytes={}-", kept));
  ASSERT_FALSE(seen.empty());
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].what, "model.safetensors");
    EXPECT_EQ(seen[i].finished, i + 1 == seen.size());
    EXPECT_STREQ(seen[i].unit, "B");
    if (i > 0) {
      EXPECT_GE(seen[i].done, seen[i - 1].done);
    }
  }
  EXPECT_EQ(seen.back().done, 3'000'000);
  EXPECT_EQ(seen.back().total, 3'000'000);
}

TEST_F(HubTest, HostileNamesFromTheCaller) {
  server_.put("o/n", {{"config.json", "{}"}});
  for (const char* name : {"../x", "/etc/passwd", "a/../../x", "", "a\\b"}) {
    expect_throw<Error>("refused", [&] { download("o/n", name, "main", options_); });
  }
  expect_throw<UsageError>("revision", [&] { download("o/n", "config.json", "../main", options_); });
  expect_throw<UsageError>("name of a model", [&] { download("../o", "config.json", "main", options_); });
  EXPECT_TRUE(server_.requests().empty());
  EXPECT_FALSE(fs::exists(options_.cache_directory));
}

TEST_F(HubTest, HostileAnswers) {
  server_.put("o/n", {{"config.json", "{}"}});
  const auto get = [&] { download("o/n", "config.json", "main", options_); };
  for (const char* etag : {"../../../x", "a/b", "..", ".x", "a b"}) {
    server_.set_faults({.etag = etag});
    expect_error(Kind::kServer, "ETag", get);
  }
  for (const char* commit : {"../../x", "main", "0123", "ABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD"}) {
    server_.set_faults({.commit = commit});
    expect_error(Kind::kServer, "commit", get);
    expect_error(Kind::kServer, "commit", [&] { model_info("o/n", "main", options_); });
    expect_error(Kind::kServer, "commit", [&] { try_download("o/n", "nope", "main", options_); });
  }
  for (const char* location : {"file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"}) {
    server_.set_faults({.location = location});
    expect_error(Kind::kServer, "not an HTTP address", get);
  }
  for (const char* info : {"", "[]", "{}", "{\"sha\": 3}", "{\"sha\": \"0123456789012345678901234567890123456789\"}",
                           "{\"sha\": \"0123456789012345678901234567890123456789\", \"siblings\": [3]}", "{\"sha\""}) {
    if (*info != '\0') {
      server_.set_faults({.info = info});
      EXPECT_THROW(model_info("o/n", "main", options_), ParseError) << info;
    }
  }
  server_.set_faults({.info = std::string(size_t{33} << 20, ' ')});
  expect_error(Kind::kServer, "longer than", [&] { model_info("o/n", "main", options_); });
  server_.set_faults({.info = std::string(100'000, '[')});
  EXPECT_THROW(model_info("o/n", "main", options_), ParseError);
  EXPECT_TRUE(listing(repo("models--o--n") / "blobs").empty());
}

}  // namespace
}  // namespace mamba::hub::testing
