// What a user or a server names, checked before it becomes part of a path or a URL.
#pragma once

#include <string>
#include <string_view>

namespace mamba::hub {

// One file of one revision, as messages name it.
struct FileId {
  std::string repo;
  std::string name;
  std::string revision;

  std::string shown() const;  // `"config.json" of owner/name (revision main)`
};

// Throw UsageError for what the hub does not allow or what would leave the cache's folders.
void check_repo_id(const std::string& repo);
void check_revision(const std::string& revision);

// Throws Error for absolute names, "..", empty components, backslashes, control characters and over-long names.
void check_file_name(const std::string& name);

// 40 lower-case hex digits (git's sha1), or 64 (its sha256).
bool is_commit(std::string_view text);

bool is_hex(std::string_view text);  // lower case

// Without W/ and quotes. Throws Error unless what is left can be a file's name: letters, digits and -_.=+ only.
std::string checked_etag(std::string_view header);

// Percent-encoding of all but RFC 3986's unreserved characters; '/' stays when `keep_slashes`.
std::string url_quote(std::string_view text, bool keep_slashes);

}  // namespace mamba::hub
