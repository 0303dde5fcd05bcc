// One process at a time.
#pragma once

#include <filesystem>
#include <functional>

namespace mamba {

// An exclusive flock on a lock file, which stays behind as Python's filelock leaves it. `waiting` is called at once and
// then about ten times a second while another process (or thread) holds it, and may throw to give up.
class FileLock {
 public:
  FileLock(const std::filesystem::path& path, const std::function<void()>& waiting);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace mamba
