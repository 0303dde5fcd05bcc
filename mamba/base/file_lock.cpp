#include "mamba/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "mamba/base/error.h"
#include "mamba/base/warning.h"

namespace mamba {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds kLockPoll{100};
constexpr mode_t kLockMode = 0664;  // users of one group may share a cache

}  // namespace

FileLock::FileLock(const fs::path& path, const std::function<void()>& waiting) {
  for (;;) {
    // Without O_TRUNC and O_NOFOLLOW-safe: whoever may write here must not be able to make us write elsewhere.
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, kLockMode);
    check(fd_ >= 0, "{}: cannot be opened to lock it: {}", path.string(), std::strerror(errno));
    const int result = ::flock(fd_, LOCK_EX | LOCK_NB);
    const int error = result == 0 ? 0 : errno;
    if (error == 0) {
      struct stat info {};
      // Whoever deleted the file in between lets the next one lock another file of the same name.
      if (::fstat(fd_, &info) == 0 && info.st_nlink > 0) {
        return;
      }
    }
    ::close(fd_);
    fd_ = -1;
    if (error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP || error == ENOLCK) {
      // Whoever is locked out writes the same bytes or renames a whole file, so this costs time, not data.
      warn_once(fmt::format("{}: this file system has no locks; do not let two processes write in one folder at once",
                            path.string()));
      return;
    }
    check(error == 0 || error == EWOULDBLOCK || error == EAGAIN || error == EACCES || error == EINTR,
          "{}: cannot be locked: {}", path.string(), std::strerror(error));
    if (error != 0 && error != EINTR) {
      if (waiting) {
        waiting();
      }
      std::this_thread::sleep_for(kLockPoll);
    }
  }
}

FileLock::~FileLock() {
  if (fd_ >= 0) {
    ::close(fd_);  // releases it; the file stays, since removing it would split those who wait
  }
}

}  // namespace mamba
