#include "mamba/hub/names.h"

#include <gtest/gtest.h>

#include "mamba/base/error.h"
#include "mamba/hub/checksum.h"
#include "mamba/hub/hub.h"
#include "mamba/hub/url.h"

namespace mamba::hub {
namespace {

TEST(Names, RepoIds) {
  for (const char* good : {"gpt2", "state-spaces/mamba-130m", "state-spaces/mamba-2.8b-slimpj", "a/b", "A_1/b.c",
                           "_x/y_", "EleutherAI/gpt-neox-20b"}) {
    EXPECT_TRUE(looks_like_repo_id(good)) << good;
    EXPECT_NO_THROW(check_repo_id(good));
  }
  for (const char* bad :
       {"",     "/",    "a/",   "/a",  "a/b/c",   "./a",   "../a",          "a/..",     "a--b/c", "a..b",
        ".a/b", "a/-b", "a/b-", "a b", "a/b.git", "a/b\n", "caf\xc3\xa9/x", "~/models", "C:\\x",  "a\\b"}) {
    EXPECT_FALSE(looks_like_repo_id(bad)) << bad;
    EXPECT_THROW(check_repo_id(bad), UsageError) << bad;
  }
  EXPECT_TRUE(looks_like_repo_id(std::string(96, 'a') + "/" + std::string(96, 'b')));
  EXPECT_FALSE(looks_like_repo_id(std::string(97, 'a')));
}

TEST(Names, Files) {
  for (const char* good : {"config.json", "a/b/c.json", "..a", "a..b", "a b", "\xc3\xbc.txt", ".hidden", "ab:c"}) {
    EXPECT_NO_THROW(check_file_name(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("/etc/passwd"), std::string(".."), std::string("../x"), std::string("a/../b"),
        std::string("a/.."), std::string("./a"), std::string("a//b"), std::string("a/"), std::string("a\\..\\b"),
        std::string("a\nb"), std::string("a\0b", 3), std::string("C:x"), std::string("d/c:x"), std::string(241, 'x'),
        std::string("a/") + std::string(1100, 'x')}) {
    EXPECT_THROW(check_file_name(bad), Error) << bad;
  }
}

TEST(Names, Revisions) {
  for (const char* good : {"main", "refs/pr/1", "v1.0", "0123abc", "feature/x-y"}) {
    EXPECT_NO_THROW(check_revision(good)) << good;
  }
  for (const char* bad : {"", "..", "../main", "a..b", "/main", "main/", "a\nb", "a\\b"}) {
    EXPECT_THROW(check_revision(bad), UsageError) << bad;
  }
  EXPECT_TRUE(is_commit(std::string(40, 'a')));
  EXPECT_TRUE(is_commit(std::string(64, '0')));
  EXPECT_FALSE(is_commit(std::string(40, 'A')));
  EXPECT_FALSE(is_commit(std::string(39, 'a')));
  EXPECT_FALSE(is_commit("main"));
}

TEST(Names, Etags) {
  EXPECT_EQ(checked_etag("\"abc\""), "abc");
  EXPECT_EQ(checked_etag("W/\"abc\""), "abc");
  EXPECT_EQ(checked_etag("abc"), "abc");
  EXPECT_EQ(checked_etag("\"5d41402abc-17\""), "5d41402abc-17");
  for (const std::string& bad :
       {std::string(), std::string("\"\""), std::string("\"..\""), std::string("\"a/b\""), std::string("\"../../x\""),
        std::string("\".hidden\""), std::string("\"a b\""), std::string("W/"), std::string(300, 'a')}) {
    EXPECT_THROW(checked_etag(bad), HubError) << bad;
  }
}

TEST(Names, UrlQuoting) {
  EXPECT_EQ(url_quote("a/b c?#%\xc3\xbc~-._", true), "a/b%20c%3F%23%25%C3%BC~-._");
  EXPECT_EQ(url_quote("refs/pr/1", false), "refs%2Fpr%2F1");
}

TEST(Names, Origins) {
  EXPECT_EQ(origin_of("https://HuggingFace.co/a/b?c"), "https://huggingface.co:443");
  EXPECT_EQ(origin_of("http://127.0.0.1:8000/x"), "http://127.0.0.1:8000");
  EXPECT_NE(origin_of("http://a.com/"), origin_of("https://a.com/"));
  EXPECT_NE(origin_of("http://a.com/"), origin_of("http://a.com:81/"));
  EXPECT_NE(origin_of("https://huggingface.co@evil.com/"), origin_of("https://huggingface.co/"));
  EXPECT_EQ(origin_of("https://a.com:443/"), origin_of("https://a.com/"));
}

// The values that sha256sum and `git hash-object` print.
TEST(Checksums, KnownValues) {
  Checksum sha = Checksum::sha256();
  sha.update("hel", 3);
  sha.update("lo\n", 3);
  EXPECT_EQ(sha.hex(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  Checksum git = Checksum::git_blob(6);
  git.update("hello\n", 6);
  EXPECT_EQ(git.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(Checksum::git_blob(0).hex(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_TRUE(Checksum::of_etag(std::string(64, 'a'), -1));
  EXPECT_TRUE(Checksum::of_etag(std::string(40, 'a'), 5));
  EXPECT_FALSE(Checksum::of_etag(std::string(40, 'a'), -1));
  EXPECT_FALSE(Checksum::of_etag(std::string(40, 'x'), 5));
  EXPECT_FALSE(Checksum::of_etag("5d41402abc-17", 5));
}

}  // namespace
}  // namespace mamba::hub
