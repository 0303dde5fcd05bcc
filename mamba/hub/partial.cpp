#include "mamba/hub/partial.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "mamba/base/error.h"

namespace mamba::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 20;

// Where flock does nothing, a file this young may still be another process's.
constexpr std::chrono::minutes kAbandonedAfter{2};

}  // namespace

PartialFile::PartialFile(const RepoCache& cache, const std::string& etag, int64_t size, std::function<void()> idle)
    : cache_(cache), etag_(etag), path_(cache.partial(etag)), idle_(std::move(idle)), expected_(size) {
  adopt_leftover();
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    fail_write(errno);
  }
  try {
    struct stat info {};
    check(::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode), "{}: is not a regular file; remove it", path_.string());
    size_ = info.st_size;
    resumed_ = size_ > 0;
    if (expected_ >= 0 && size_ > expected_) {
      restart();
    }
    check_space(expected_);
    sum_ = Checksum::of_etag(etag_, expected_);
    hash_content();
  } catch (...) {
    ::close(fd_);
    if (size_ == 0) {
      ::unlink(path_.c_str());
    }
    throw;
  }
}

PartialFile::~PartialFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    if (size_ == 0) {
      ::unlink(path_.c_str());
    }
  }
}

// huggingface_hub 1.x names its partial files <etag>.<8 hex digits>.incomplete and removes them itself unless killed.
void PartialFile::adopt_leftover() {
  std::error_code error;
  const fs::path* best = nullptr;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(path_.parent_path(), error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    constexpr std::string_view kEnd = ".incomplete";
    if (name.size() == etag_.size() + 1 + 8 + kEnd.size() && name.starts_with(etag_ + ".") && name.ends_with(kEnd) &&
        is_hex(std::string_view(name).substr(etag_.size() + 1, 8))) {
      leftovers.push_back(it->path());
    }
  }
  uintmax_t most = fs::file_size(path_, error);
  if (error) {
    most = 0;
  }
  for (const fs::path& path : leftovers) {
    const auto age = fs::file_time_type::clock::now() - fs::last_write_time(path, error);
    if (error || age < kAbandonedAfter || !fs::is_regular_file(fs::symlink_status(path, error))) {
      continue;
    }
    const uintmax_t size = fs::file_size(path, error);
    if (!error && size > most && (expected_ < 0 || size <= static_cast<uintmax_t>(expected_))) {
      most = size;
      best = &path;
    }
  }
  if (best != nullptr) {
    ::rename(best->c_str(), path_.c_str());
  }
}

void PartialFile::check_space(int64_t size) const {
  struct statvfs info {};
  if (size < 0 || ::fstatvfs(fd_, &info) != 0 || info.f_blocks == 0) {
    return;
  }
  const uint64_t room = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  const auto rest = static_cast<uint64_t>(std::max<int64_t>(0, size - size_));
  check(rest <= room,
        "{}: {} more bytes are needed but the disk has {} free: make room, or set HF_HOME to a larger disk",
        path_.parent_path().string(), rest, room);
}

void PartialFile::hash_content() {
  std::vector<char> buffer(std::min<size_t>(kReadBytes, static_cast<size_t>(size_)));
  for (int64_t at = 0; sum_ && at < size_;) {
    const ssize_t got =
        ::pread(fd_, buffer.data(), std::min(buffer.size(), static_cast<size_t>(size_ - at)), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    check(got > 0, "{}: cannot be read: {}", path_.string(), got < 0 ? std::strerror(errno) : "it shrank meanwhile");
    sum_->update(buffer.data(), static_cast<size_t>(got));
    at += got;
    if (idle_) {
      idle_();
    }
  }
}

void PartialFile::fail_write(int error) const {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  throw Error(fmt::format("{}: cannot be written: {}{}", path_.string(), std::strerror(error),
                          full ? fmt::format(" ({} bytes are kept: make room and run again to go on)", size_) : ""));
}

void PartialFile::append(std::string_view data) {
  while (!data.empty()) {
    const ssize_t put = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(size_));
    if (put < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail_write(errno);
    }
    if (sum_) {
      sum_->update(data.data(), static_cast<size_t>(put));
    }
    size_ += put;
    data.remove_prefix(static_cast<size_t>(put));
  }
}

void PartialFile::restart() {
  if (::ftruncate(fd_, 0) != 0) {
    fail_write(errno);
  }
  size_ = 0;
  resumed_ = false;
  sum_ = Checksum::of_etag(etag_, expected_);
}

std::optional<std::string> PartialFile::mismatch() {
  if (!sum_) {  // git's hash starts with the length, which may have come late
    sum_ = Checksum::of_etag(etag_, size_);
    hash_content();
  }
  if (!sum_) {
    return std::nullopt;
  }
  std::string hex = sum_->hex();
  sum_.reset();
  return hex == etag_ ? std::nullopt : std::optional(std::move(hex));
}

void PartialFile::commit() {
  const fs::path blob = cache_.blob(etag_);
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != ENOTSUP) {
    fail_write(errno);
  }
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) {
    fail_write(errno);
  }
  if (::rename(path_.c_str(), blob.c_str()) != 0) {
    const int error = errno;
    check(error == ENOENT && present(blob), "{}: cannot be renamed to {}: {}", path_.string(), blob.string(),
          std::strerror(error));
  }
}

void PartialFile::remove() {
  ::close(fd_);
  fd_ = -1;
  ::unlink(path_.c_str());
}

}  // namespace mamba::hub
