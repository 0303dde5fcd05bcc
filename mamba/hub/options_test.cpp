#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/base/warning.h"
#include "mamba/hub/hub.h"

namespace mamba::hub {
namespace {

// The environment with exactly these hub variables, and HOME in an empty folder.
class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    for (const char* name :
         {"HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE",
          "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
          "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DISABLE_SYMLINKS", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT",
          "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HOME", "WHERE"}) {
      const char* value = std::getenv(name);
      before_[name] = value == nullptr ? std::nullopt : std::optional<std::string>(value);
      ::unsetenv(name);
    }
    set("HOME", home_.path().string());
  }
  ~OptionsTest() override {
    for (const auto& [name, value] : before_) {
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
    }
  }

  static void set(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); }
  std::string home() const { return home_.path().string(); }

  TemporaryDirectory home_;
  std::map<std::string, std::optional<std::string>> before_;
};

TEST_F(OptionsTest, Defaults) {
  const Options options = Options::from_environment();
  EXPECT_EQ(options.endpoint, "https://huggingface.co");
  EXPECT_EQ(options.token, "");
  EXPECT_EQ(options.cache_directory, home() + "/.cache/huggingface/hub");
  EXPECT_FALSE(options.offline);
  EXPECT_TRUE(options.symlinks);
  EXPECT_EQ(options.metadata_timeout, std::chrono::seconds(10));
  EXPECT_EQ(options.download_timeout, std::chrono::seconds(10));
}

TEST_F(OptionsTest, CacheFolders) {
  set("XDG_CACHE_HOME", "/xdg");
  EXPECT_EQ(Options::from_environment().cache_directory, "/xdg/huggingface/hub");
  set("HF_HOME", "~/hf");
  EXPECT_EQ(Options::from_environment().cache_directory, home() + "/hf/hub");
  set("WHERE", "/where");
  set("HUGGINGFACE_HUB_CACHE", "$WHERE/old");
  EXPECT_EQ(Options::from_environment().cache_directory, "/where/old");
  set("HF_HUB_CACHE", "${WHERE}/new/$NOT_SET/${NOT_SET}$");
  EXPECT_EQ(Options::from_environment().cache_directory, "/where/new/$NOT_SET/${NOT_SET}$");
  set("HF_HUB_CACHE", "");
  EXPECT_EQ(Options::from_environment().cache_directory, "/where/old");
}

TEST_F(OptionsTest, Tokens) {
  std::filesystem::create_directories(home() + "/.cache/huggingface");
  write_file(home() + "/.cache/huggingface/token", "  stored\n");
  EXPECT_EQ(Options::from_environment().token, "stored");
  write_file(home() + "/other", "elsewhere\r\n");
  set("HF_TOKEN_PATH", "~/other");
  EXPECT_EQ(Options::from_environment().token, "elsewhere");
  set("HUGGING_FACE_HUB_TOKEN", "old");
  EXPECT_EQ(Options::from_environment().token, "old");
  set("HF_TOKEN", " new\n");
  EXPECT_EQ(Options::from_environment().token, "new");
  set("HF_TOKEN", "");
  EXPECT_EQ(Options::from_environment().token, "old");
  set("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
  EXPECT_EQ(Options::from_environment().token, "");
}

TEST_F(OptionsTest, TokenFileThatCannotBeReadIsAWarning) {
  std::vector<std::string> warnings;
  set_warning_handler([&](const std::string& text) { warnings.push_back(text); });
  set("HF_TOKEN_PATH", home());
  EXPECT_EQ(Options::from_environment().token, "");
  set_warning_handler({});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("without the stored token"), std::string::npos);
}

TEST_F(OptionsTest, Switches) {
  for (const char* yes : {"1", "on", "YES", "True"}) {
    set("HF_HUB_OFFLINE", yes);
    EXPECT_TRUE(Options::from_environment().offline) << yes;
  }
  for (const char* no : {"0", "off", "", "2", "y"}) {
    set("HF_HUB_OFFLINE", no);
    EXPECT_FALSE(Options::from_environment().offline) << no;
  }
  set("HF_HUB_OFFLINE", "");
  set("TRANSFORMERS_OFFLINE", "1");
  EXPECT_TRUE(Options::from_environment().offline);
  set("HF_HUB_DISABLE_SYMLINKS", "1");
  EXPECT_FALSE(Options::from_environment().symlinks);
}

TEST_F(OptionsTest, EndpointsTimeoutsAndCertificates) {
  set("HF_ENDPOINT", "http://mirror.example/hub//");
  set("HF_HUB_ETAG_TIMEOUT", "3");
  set("HF_HUB_DOWNLOAD_TIMEOUT", "0");
  set("REQUESTS_CA_BUNDLE", "/bundle.pem");
  const Options options = Options::from_environment();
  EXPECT_EQ(options.endpoint, "http://mirror.example/hub");
  EXPECT_EQ(options.metadata_timeout, std::chrono::seconds(3));
  EXPECT_EQ(options.download_timeout, std::chrono::seconds(10));
  EXPECT_EQ(options.certificates, "/bundle.pem");
  for (const char* bad : {"abc", "-1", "1.5", "3 ", "99999999999"}) {
    set("HF_HUB_ETAG_TIMEOUT", bad);
    EXPECT_THROW(Options::from_environment(), UsageError) << bad;
  }
  set("HF_HUB_ETAG_TIMEOUT", "");
  for (const char* bad : {"huggingface.co", "ftp://x", "file:///etc"}) {
    set("HF_ENDPOINT", bad);
    EXPECT_THROW(Options::from_environment(), UsageError) << bad;
  }
}

}  // namespace
}  // namespace mamba::hub
