// One call of the public functions: a connection, a cache folder at a time, and what gets reported.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "mamba/hub/cache.h"
#include "mamba/hub/client.h"

namespace mamba::hub {

// Passes progress on, at most every 50 ms, and again while nothing moves so that the receiver can cancel.
class Meter {
 public:
  explicit Meter(const ProgressFn& progress) : progress_(progress) {}

  void begin(std::string what);  // reports nothing yet
  void update(int64_t done, int64_t total);
  void idle();
  void finish();  // a last report, if there was any since begin()

 private:
  void report(bool finished);

  const ProgressFn& progress_;
  Progress last_;
  bool reported_ = false;
  std::chrono::steady_clock::time_point when_{};
};

class Session {
 public:
  Session(const Options& options, const ProgressFn& progress);  // both must outlive this object

  // The file's place in the cache, fetched when need be; nothing when the revision has no such file. Moves
  // refs/<revision>, unless it is a commit.
  std::optional<std::filesystem::path> obtain(const FileId& file);

  ModelInfo info(const std::string& repo, const std::string& revision, int tries) {
    return client_.info(repo, revision, tries);
  }

 private:
  void fetch(const FileId& file, const FileMetadata& metadata, const RepoCache& cache,
             const std::filesystem::path& pointer);
  void transfer(const FileId& file, const FileMetadata& metadata, const RepoCache& cache);

  const Options& options_;
  Meter meter_;
  Client client_;
};

// Whether a failure to reach the hub may be made up for by what is cached.
bool cache_may_serve(const HubError& error);

// Tells once that the cache served `subject` because of `error`.
void warn_served_from_cache(const std::string& subject, const HubError& error);

}  // namespace mamba::hub
