// The hash that a blob's ETag states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace mamba::hub {

class Checksum {
 public:
  // sha256 of the content for an ETag of 64 hex digits; for one of 40 git's blob id, sha1 of "blob <size>\0" and the
  // content, for which `size` must be known (-1: not). Nothing for other ETags.
  static std::optional<Checksum> of_etag(std::string_view etag, int64_t size);

  static Checksum sha256();
  static Checksum git_blob(int64_t size);

  void update(const void* data, size_t size);
  std::string hex();  // ends it: no update afterwards

 private:
  explicit Checksum(const char* algorithm);

  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

}  // namespace mamba::hub
