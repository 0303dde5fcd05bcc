// Networks and servers that fail, and files that are not what they should be.
#include <chrono>

#include "mamba/hub/testing/fixture.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;

class FaultTest : public HubTest {
 protected:
  FaultTest() {
    server_.put("o/n", {{"w.safetensors", weights_}, {"vocab.json", text_}});
    fs::create_directories(blobs());
  }

  fs::path blobs() const { return repo("models--o--n") / "blobs"; }
  std::string tag() const { return HubServer::etag_of("w.safetensors", weights_); }
  fs::path partial() const { return blobs() / (tag() + ".incomplete"); }
  std::string fetch(const std::string& name = "w.safetensors") {
    return read_file(download("o/n", name, "main", options_));
  }
  std::vector<std::string> ranges() const {
    std::vector<std::string> out;
    for (const SeenRequest& request : server_.requests()) {
      if (request.method == "GET") {
        out.push_back(request.range);
      }
    }
    return out;
  }
  void expect_only_blob() const { EXPECT_EQ(listing(blobs()), std::vector<std::string>{tag()}); }

  const std::string weights_ = noise(500'009);
  const std::string text_ = noise(70'001, 7);
};

using Ranges = std::vector<std::string>;

TEST_F(FaultTest, CutsAreContinued) {
  server_.set_faults({.cut_after = 100'000, .cuts = 3});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), (Ranges{"", "bytes=100000-", "bytes=200000-", "bytes=300000-"}));
  expect_only_blob();
}

TEST_F(FaultTest, CutsWithoutEndAreAnErrorThatKeepsTheBytes) {
  server_.set_faults({.cut_after = 10'000});
  expect_error(Kind::kUnreachable, "after 50000 of 500009 bytes, which are kept", [&] { fetch(); });
  EXPECT_EQ(ranges().size(), 5u);
  EXPECT_EQ(read_file(partial()), weights_.substr(0, 50'000));
  server_.set_faults({});
  server_.forget_requests();
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), Ranges{"bytes=50000-"});
  expect_only_blob();
}

TEST_F(FaultTest, BytesThatCameMakeTheTriesStartAnew) {
  const std::string big = noise(9'000'000);
  server_.put("o/big", {{"w.safetensors", big}});
  server_.set_faults({.cut_after = 1'200'000});
  options_.tries = 2;
  EXPECT_TRUE(read_file(download("o/big", "w.safetensors", "main", options_)) == big);
  EXPECT_EQ(ranges().size(), 8u);
}

TEST_F(FaultTest, CutBeforeTheFirstByte) {
  server_.set_faults({.cut_after = 0, .cuts = 2});
  EXPECT_EQ(fetch(), weights_);
  server_.set_faults({.cut_after = 0});
  expect_error(Kind::kUnreachable, "after 0 of 70001 bytes", [&] { fetch("vocab.json"); });
  expect_only_blob();  // nothing came, nothing stays
}

TEST_F(FaultTest, AServerThatIgnoresRanges) {
  write_file(partial(), weights_.substr(0, 123'456));
  server_.set_faults({.ignore_range = true});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), Ranges{"bytes=123456-"});
}

TEST_F(FaultTest, AServerThatAnswersAnotherRange) {
  write_file(partial(), weights_.substr(0, 123'456));
  server_.set_faults({.wrong_range = true});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), (Ranges{"bytes=123456-", ""}));
}

TEST_F(FaultTest, AServerThatRefusesRanges) {
  write_file(partial(), weights_.substr(0, 123'456));
  server_.set_faults({.refuse_range = true});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), (Ranges{"bytes=123456-", ""}));
}

TEST_F(FaultTest, LeftoversOfAllKinds) {
  write_file(partial(), weights_);  // whole: only the renaming was missing
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), Ranges{});
  expect_only_blob();

  const auto again_with = [&](const std::string& leftover) {
    fs::remove_all(repo("models--o--n"));
    fs::create_directories(blobs());
    write_file(partial(), leftover);
    server_.forget_requests();
    EXPECT_EQ(fetch(), weights_);
    expect_only_blob();
  };
  again_with(weights_ + "and more");
  EXPECT_EQ(ranges(), Ranges{""});
  again_with(std::string(weights_.size(), '\0'));  // laid out but never filled
  EXPECT_EQ(ranges(), Ranges{""});
  again_with(std::string(1000, 'x'));  // not what the file starts with
  EXPECT_EQ(ranges(), (Ranges{"bytes=1000-", ""}));
  again_with("");
  EXPECT_EQ(ranges(), Ranges{""});
}

TEST_F(FaultTest, LeftoversOfPythonTools) {
  const fs::path old = blobs() / (tag() + ".0a1b2c3d.incomplete");
  const fs::path young = blobs() / (tag() + ".deadbeef.incomplete");
  const fs::path other = blobs() / (tag() + ".notahash.incomplete");
  write_file(old, weights_.substr(0, 200'000));
  write_file(young, weights_.substr(0, 300'000));
  write_file(other, weights_.substr(0, 400'000));
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(1));
  fs::last_write_time(other, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), Ranges{"bytes=200000-"});
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(young));  // may still be somebody's
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(FaultTest, WrongContentIsRefused) {
  server_.set_faults({.corrupt = true});
  for (const char* name : {"w.safetensors", "vocab.json"}) {
    expect_error(Kind::kBadContent, "its checksum is", [&] { fetch(name); });
    EXPECT_TRUE(listing(blobs()).empty());
    EXPECT_EQ(find_cached("o/n", name, "main", options_), std::nullopt);
  }
  EXPECT_EQ(ranges().size(), 2u);
  server_.set_faults({});
  EXPECT_EQ(fetch(), weights_);
}

TEST_F(FaultTest, WrongLengthsAreRefused) {
  server_.set_faults({.extra_bytes = 5});
  expect_error(Kind::kBadContent, "offers 500014 bytes but announced 500009", [&] { fetch(); });
  server_.set_faults({.extra_bytes = -5});
  expect_error(Kind::kBadContent, "offers 500004 bytes but announced 500009", [&] { fetch(); });
  EXPECT_TRUE(listing(blobs()).empty());
}

TEST_F(FaultTest, LengthsThatAreNotTold) {
  server_.set_faults({.cut_after = 30'000, .cuts = 1, .hide_sizes = true, .lfs_elsewhere = true});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(fetch("vocab.json"), text_);
  server_.put("o/n", {{"other.json", noise(5000, 9)}});
  server_.set_faults({.corrupt = true, .hide_sizes = true});
  expect_error(Kind::kBadContent, "its checksum is", [&] { fetch("other.json"); });
}

TEST_F(FaultTest, TagsThatAreNoHashes) {
  server_.set_faults({.etag = "not-a-hash.7"});
  EXPECT_EQ(fetch("vocab.json"), text_);
  EXPECT_EQ(listing(blobs()), std::vector<std::string>{"not-a-hash.7"});
}

TEST_F(FaultTest, CompressedBodiesAreRefused) {
  server_.set_faults({.encoded = true});
  expect_error(Kind::kServer, "compressed (\"gzip\")", [&] { fetch(); });
}

TEST_F(FaultTest, ServersThatAreDownForAMoment) {
  server_.set_faults({.unavailable = 3});
  EXPECT_EQ(fetch(), weights_);
  for (const int status : {500, 502, 503, 504}) {
    server_.set_faults({.unavailable = 1000, .status = status});
    server_.forget_requests();
    expect_error(Kind::kServer, fmt::format("answers {}", status), [&] { fetch("vocab.json"); });
    EXPECT_EQ(server_.requests().size(), 5u);
    expect_error(Kind::kServer, "try again later", [&] { model_info("o/n", "main", options_); });
  }
}

TEST_F(FaultTest, ServersThatAreBusy) {
  server_.set_faults({.unavailable = 1, .status = 429, .retry_after = "1"});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(fetch(), weights_);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  server_.set_faults({.unavailable = 1000, .status = 429, .retry_after = "3600"});
  server_.forget_requests();
  expect_error(Kind::kServer, "in 3600 seconds; HF_TOKEN raises the limit", [&] { fetch("vocab.json"); });
  EXPECT_EQ(server_.requests().size(), 1u);
}

TEST_F(FaultTest, SilentServers) {
  options_.download_timeout = std::chrono::seconds(1);
  options_.tries = 2;
  server_.set_faults({.stall_after = 150'000, .stalls = 1});
  EXPECT_EQ(fetch(), weights_);
  EXPECT_EQ(ranges(), (Ranges{"", "bytes=150000-"}));
  server_.set_faults({.stall_after = 0});
  const auto begin = std::chrono::steady_clock::now();
  expect_error(Kind::kUnreachable, "no answer from", [&] { fetch("vocab.json"); });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8));
}

TEST_F(FaultTest, CancellingWhileNothingMoves) {
  struct Cancelled {};
  server_.set_faults({.stall_after = 150'000});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(download("o/n", "w.safetensors", "main", options_,
                        [&](const Progress& progress) {
                          if (progress.done == 150'000 &&
                              std::chrono::steady_clock::now() - begin > std::chrono::milliseconds(500)) {
                            throw Cancelled();
                          }
                        }),
               Cancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(4));
  EXPECT_EQ(fs::file_size(partial()), 150'000u);
}

TEST_F(FaultTest, NobodyThere) {
  options_.endpoint = "http://127.0.0.1:1";
  expect_error(Kind::kUnreachable, "Connection refused", [&] { fetch(); });
  options_.endpoint = "http://no-such-host.invalid";
  expect_error(Kind::kUnreachable, "the name \"no-such-host.invalid\" is not known", [&] { fetch(); });
  for (const char* endpoint : {"file:///etc", "ftp://127.0.0.1", "not a url", ""}) {
    options_.endpoint = endpoint;
    expect_throw<UsageError>("endpoint", [&] { fetch(); });
  }
}

TEST_F(FaultTest, RedirectsWithoutEnd) {
  server_.set_faults({.redirects = 4});
  EXPECT_EQ(fetch(), weights_);
  server_.set_faults({.redirects = 1000});
  expect_error(Kind::kServer, "redirects in a row", [&] { fetch("vocab.json"); });
}

TEST_F(FaultTest, ServersThatAreNoHubs) {
  HubServer other;
  options_.endpoint = other.endpoint();
  expect_error(Kind::kUnauthorized, "does not exist", [&] { fetch(); });
  // A mirror that sends the whole request elsewhere.
  server_.set_faults({.location = other.endpoint() + "/o/n"});
  options_.endpoint = server_.endpoint();
  options_.token = "secret";
  other.forget_requests();
  EXPECT_THROW(fetch(), HubError);
  for (const SeenRequest& request : other.requests()) {
    EXPECT_EQ(request.authorization, "");
  }
}

TEST_F(FaultTest, FoldersThatCannotBeMade) {
  write_file(directory_ / "file", "in the way");
  options_.cache_directory = directory_ / "file";
  expect_throw<Error>("cannot be made", [&] { fetch(); });
  options_.cache_directory.clear();
  expect_throw<UsageError>("HF_HOME", [&] { fetch(); });
}

TEST_F(FaultTest, PartialFilesThatAreLinksAreNotFollowed) {
  write_file(directory_ / "precious", "content");
  fs::create_symlink(directory_ / "precious", partial());
  expect_throw<Error>(partial().string(), [&] { fetch(); });
  EXPECT_EQ(read_file(directory_ / "precious"), "content");
}

}  // namespace
}  // namespace mamba::hub::testing
