// A blob on its way: blobs/<etag>.incomplete, hashed as it grows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "mamba/hub/cache.h"
#include "mamba/hub/checksum.h"

namespace mamba::hub {

// The caller holds the blob's lock. Whatever ends the process leaves either the whole blob or an .incomplete file that
// the next one continues. Bytes go to their place in the file whatever its length is by then, so that on a file system
// whose locks do not work two writers of the same content do not spoil each other's.
class PartialFile {
 public:
  // Opens it with what earlier runs left, Python's included. `size` is the whole length, -1 when not known. Throws
  // Error when the rest clearly does not fit the disk. `idle` is called while what is there gets read; it may throw.
  PartialFile(const RepoCache& cache, const std::string& etag, int64_t size, std::function<void()> idle);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  int64_t size() const { return size_; }
  bool resumed() const { return resumed_; }  // some bytes come from an earlier run

  void append(std::string_view data);
  void restart();  // forgets all content

  // Nothing when the content, now `size()` long, fits the ETag or the ETag states no hash; else its own hash.
  std::optional<std::string> mismatch();

  void commit();  // makes it durable and names it as the blob
  void remove();

 private:
  void adopt_leftover();
  void check_space(int64_t size) const;
  void hash_content();
  [[noreturn]] void fail_write(int error) const;

  const RepoCache& cache_;
  std::string etag_;
  std::filesystem::path path_;
  std::function<void()> idle_;
  int fd_ = -1;
  int64_t size_ = 0;
  bool resumed_ = false;
  int64_t expected_;
  std::optional<Checksum> sum_;  // of the first size_ bytes; nothing when the ETag or the length does not allow it yet
};

}  // namespace mamba::hub
