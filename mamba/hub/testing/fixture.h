// What the hub's tests share: a server, an empty cache, and options that do not wait long.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/base/warning.h"
#include "mamba/hub/hub.h"
#include "mamba/hub/testing/hub_server.h"

namespace mamba::hub::testing {

// Bytes that do not repeat early, the same for the same arguments.
inline std::string noise(size_t size, uint64_t seed = 1) {
  std::string out(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (char& c : out) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    c = static_cast<char>(state >> 56);
  }
  return out;
}

class HubTest : public ::testing::Test {
 protected:
  HubTest() {
    for (const char* name : {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) {
      ::unsetenv(name);
    }
    options_.endpoint = server_.endpoint();
    options_.cache_directory = directory_ / "hub";
    options_.metadata_timeout = std::chrono::milliseconds(5000);
    options_.download_timeout = std::chrono::milliseconds(5000);
    options_.retry_delay = std::chrono::milliseconds(5);
    set_warning_handler([this](const std::string& text) { warnings_.push_back(text); });
  }
  ~HubTest() override { set_warning_handler({}); }

  std::filesystem::path repo(const std::string& name) const { return options_.cache_directory / name; }

  // Names in a folder, sorted; none when it does not exist.
  static std::vector<std::string> listing(const std::filesystem::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Runs `body`, which must throw a HubError of this kind with one line that contains `part`.
  static void expect_error(HubError::Kind kind, const std::string& part, const std::function<void()>& body) {
    try {
      body();
      ADD_FAILURE() << "nothing was thrown; expected: " << part;
    } catch (const HubError& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }

  template <typename Expected>
  static void expect_throw(const std::string& part, const std::function<void()>& body) {
    try {
      body();
      ADD_FAILURE() << "nothing was thrown; expected: " << part;
    } catch (const Expected& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  TemporaryDirectory directory_;
  HubServer server_;
  Options options_;
  std::vector<std::string> warnings_;
};

}  // namespace mamba::hub::testing
