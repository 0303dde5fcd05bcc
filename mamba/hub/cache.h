// One repository's folder in the cache (hub.h shows the layout).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "mamba/base/file_lock.h"
#include "mamba/hub/hub.h"
#include "mamba/hub/names.h"

namespace mamba::hub {

class RepoCache {
 public:
  // Throws UsageError unless `repo` is a repository's name.
  RepoCache(const Options& options, const std::string& repo);

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path partial(const std::string& etag) const { return folder_ / "blobs" / (etag + ".incomplete"); }
  std::filesystem::path lock(const std::string& etag) const;
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path pointer(const std::string& commit, const std::string& name) const;

  // `revision` itself when it is a commit, else what refs/<revision> holds.
  std::optional<std::string> commit_of(const std::string& revision) const;

  // The file at what `revision` was last known to be.
  std::optional<std::filesystem::path> find(const std::string& revision, const std::string& name) const;

  bool known_missing(const std::string& commit, const std::string& name) const;

  // Best effort, as nothing depends on it: the cache may be read-only.
  void remember_missing(const std::string& commit, const std::string& name) const;
  void remember_commit(const std::string& revision, const std::string& commit) const;

  // Makes the folders that a download of this blob to this pointer writes to.
  void make_folders(const std::string& etag, const std::filesystem::path& pointer) const;

  // Makes `pointer` lead to the blob: a relative link or, where there are no links, the file itself, moved there when
  // `new_blob`, else copied.
  void link(const std::string& etag, const std::filesystem::path& pointer, bool new_blob) const;

 private:
  const Options& options_;
  std::string folder_name_;
  std::filesystem::path folder_;
};

// Exists and is not a dangling link; never throws.
bool present(const std::filesystem::path& path);

}  // namespace mamba::hub
