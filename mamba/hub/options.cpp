// The environment variables of huggingface_hub, with its rules for what wins over what.
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "mamba/base/file.h"
#include "mamba/base/warning.h"
#include "mamba/hub/hub.h"

namespace mamba::hub {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxTokenFile = 64 << 10;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::string value = variable(name); !value.empty()) {
      return value;
    }
  }
  return "";
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path home_folder() {
  if (const std::string home = variable("HOME"); !home.empty()) {
    return home;
  }
  const passwd* entry = ::getpwuid(::getuid());
  if (entry == nullptr || entry->pw_dir == nullptr) {
    throw UsageError("there is no home folder to keep models in: set HF_HOME to a folder");
  }
  return entry->pw_dir;
}

// "~" and "~user" at the start, then $NAME and ${NAME}; what is not known stays as it is.
std::string expanded(const std::string& path) {
  std::string text = path;
  if (text.starts_with('~')) {
    const size_t end = std::min(text.find('/'), text.size());
    if (end == 1) {
      text = home_folder().string() + text.substr(1);
    } else if (const passwd* entry = ::getpwnam(text.substr(1, end - 1).c_str()); entry != nullptr) {
      text = entry->pw_dir + text.substr(end);
    }
  }
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '$') {
      out += text[i++];
      continue;
    }
    size_t begin = i + 1;
    const bool braces = begin < text.size() && text[begin] == '{';
    begin += braces ? 1 : 0;
    size_t end = begin;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_')) {
      ++end;
    }
    const std::string name = text.substr(begin, end - begin);
    const bool closed = !braces || (end < text.size() && text[end] == '}');
    const char* value = name.empty() || !closed ? nullptr : std::getenv(name.c_str());
    const size_t next = end + (braces && closed ? 1 : 0);
    out += value != nullptr ? value : text.substr(i, std::max(next, i + 1) - i);
    i = std::max(next, i + 1);
  }
  return out;
}

std::string cleaned_token(std::string token) {
  std::erase_if(token, [](char c) { return c == '\r' || c == '\n'; });
  constexpr std::string_view kBlanks = " \t\v\f";
  const size_t begin = token.find_first_not_of(kBlanks);
  return begin == std::string::npos ? "" : token.substr(begin, token.find_last_not_of(kBlanks) - begin + 1);
}

std::string token_from(const fs::path& hf_home) {
  if (is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
    return "";
  }
  if (std::string token = cleaned_token(first_of({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})); !token.empty()) {
    return token;
  }
  const std::string named = variable("HF_TOKEN_PATH");
  const fs::path path = named.empty() ? hf_home / "token" : fs::path(expanded(named));
  std::error_code error;
  if (!fs::exists(path, error)) {
    return "";
  }
  try {
    return cleaned_token(read_file(path, kMaxTokenFile));
  } catch (const Error& e) {  // public models need no token
    warn_once(fmt::format("going on without the stored token: {}", e.what()));
    return "";
  }
}

std::chrono::milliseconds seconds_from(const char* name, std::chrono::milliseconds fallback) {
  const std::string text = variable(name);
  if (text.empty()) {
    return fallback;
  }
  int seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 0 || seconds > 86'400) {
    throw UsageError(
        fmt::format("{} must be a whole number of seconds from 0 (the default) to 86400 but is {}", name, quote(text)));
  }
  return seconds == 0 ? fallback : std::chrono::seconds(seconds);
}

}  // namespace

Options Options::from_environment() {
  Options options;
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) {
    options.endpoint = endpoint.substr(0, endpoint.find_last_not_of('/') + 1);
  }
  if (!options.endpoint.starts_with("https://") && !options.endpoint.starts_with("http://")) {
    throw UsageError(fmt::format("HF_ENDPOINT must start with https:// or http:// but is {}", quote(options.endpoint)));
  }
  fs::path home;
  if (const std::string named = variable("HF_HOME"); !named.empty()) {
    home = expanded(named);
  } else {
    const std::string xdg = variable("XDG_CACHE_HOME");
    home = (xdg.empty() ? home_folder() / ".cache" : fs::path(expanded(xdg))) / "huggingface";
  }
  const std::string cache = first_of({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  options.cache_directory = cache.empty() ? home / "hub" : fs::path(expanded(cache));
  options.token = token_from(home);
  options.offline = is_true(first_of({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  options.symlinks = !is_true(variable("HF_HUB_DISABLE_SYMLINKS"));
  options.certificates = first_of({"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"});
  options.metadata_timeout = seconds_from("HF_HUB_ETAG_TIMEOUT", options.metadata_timeout);
  options.download_timeout = seconds_from("HF_HUB_DOWNLOAD_TIMEOUT", options.download_timeout);
  return options;
}

}  // namespace mamba::hub
