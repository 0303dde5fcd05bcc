#include "mamba/hub/names.h"

#include <algorithm>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/hub/hub.h"

namespace mamba::hub {
namespace {

constexpr size_t kMaxRepoPart = 96;    // the hub's limit
constexpr size_t kMaxComponent = 240;  // 255 is usual; ".incomplete" and temporary suffixes need room
constexpr size_t kMaxName = 1024;

// std::isalnum depends on the locale.
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_letter(char c) {
  return is_word(c) && c != '_' && !(c >= '0' && c <= '9');
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find('/');
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(at + 1);
  }
}

bool valid_repo_part(std::string_view part) {
  return !part.empty() && part.size() <= kMaxRepoPart && is_word(part.front()) && is_word(part.back()) &&
         std::all_of(part.begin(), part.end(), [](char c) { return is_word(c) || c == '-' || c == '.'; });
}

// Null when `name` may stand below a folder of the cache, else why not.
const char* unsafe(std::string_view name) {
  if (name.empty()) {
    return "it is empty";
  }
  if (name.size() > kMaxName) {
    return "it is too long";
  }
  if (has_control(name) || name.find('\\') != std::string_view::npos) {
    return "it has a backslash or a control character";
  }
  for (const std::string_view part : split(name)) {
    if (part.empty()) {
      return "it is absolute or has an empty component";
    }
    if (part == "." || part == "..") {
      return "it has a \".\" or \"..\" component";
    }
    if (part.size() > kMaxComponent) {
      return "a component is too long";
    }
    if (part.size() >= 2 && part[1] == ':' && is_letter(part[0])) {
      return "it has a drive letter";
    }
  }
  return nullptr;
}

}  // namespace

std::string FileId::shown() const {
  return fmt::format("{} of {} (revision {})", quote(name), repo, revision);
}

bool looks_like_repo_id(const std::string& text) {
  const std::vector<std::string_view> parts = split(text);
  return parts.size() <= 2 && std::all_of(parts.begin(), parts.end(), valid_repo_part) &&
         text.find("--") == std::string::npos && text.find("..") == std::string::npos && !text.ends_with(".git");
}

void check_repo_id(const std::string& repo) {
  if (!looks_like_repo_id(repo)) {
    throw UsageError(
        fmt::format("{} is not the name of a model: it must be owner/name, each of letters, digits and -_. and at most "
                    "{} long, such as state-spaces/mamba-130m",
                    quote(repo), kMaxRepoPart));
  }
}

void check_revision(const std::string& revision) {
  const char* reason = unsafe(revision);
  if (reason == nullptr && revision.find("..") != std::string::npos) {
    reason = "it has \"..\"";
  }
  if (reason != nullptr) {
    throw UsageError(
        fmt::format("{} cannot be a revision: {}; give a branch, a tag or a commit", quote(revision), reason));
  }
}

void check_file_name(const std::string& name) {
  const char* reason = unsafe(name);
  check(reason == nullptr, "{}: refused as a file's name: {}", quote(name), reason == nullptr ? "" : reason);
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_commit(std::string_view text) {
  return (text.size() == 40 || text.size() == 64) && is_hex(text);
}

std::string checked_etag(std::string_view header) {
  std::string_view etag = header;
  if (etag.starts_with("W/")) {
    etag.remove_prefix(2);
  }
  while (!etag.empty() && etag.front() == '"') {
    etag.remove_prefix(1);
  }
  while (!etag.empty() && etag.back() == '"') {
    etag.remove_suffix(1);
  }
  const bool safe = !etag.empty() && etag.size() <= kMaxComponent - 32 && etag.front() != '.' &&
                    std::all_of(etag.begin(), etag.end(),
                                [](char c) { return is_word(c) || c == '-' || c == '.' || c == '=' || c == '+'; });
  if (!safe) {
    throw HubError(HubError::Kind::kServer,
                   fmt::format("the server's ETag {} is refused: it cannot be a file's name", quote(header)));
  }
  return std::string(etag);
}

std::string url_quote(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const char c : text) {
    if (is_word(c) || c == '-' || c == '.' || c == '~' || (c == '/' && keep_slashes)) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace mamba::hub
