#include "mamba/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <regex>

namespace mamba {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const fs::path& path, const char* action, int error) {
  throw Error(fmt::format("{}: cannot be {}: {}", path.string(), action, std::strerror(error)));
}

class Descriptor {
 public:
  explicit Descriptor(const fs::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) {
      fail(path, "read", errno);
    }
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || S_ISDIR(info.st_mode)) {
      const int error = S_ISDIR(info.st_mode) ? EISDIR : errno;
      ::close(fd_);
      fail(path, "read", error);
    }
    size_ = static_cast<uint64_t>(info.st_size);
    regular_ = S_ISREG(info.st_mode);
  }
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int fd() const { return fd_; }
  int give() { return std::exchange(fd_, -1); }  // the caller closes it
  uint64_t size() const { return size_; }
  bool regular() const { return regular_; }

 private:
  int fd_;
  uint64_t size_ = 0;
  bool regular_ = false;
};

}  // namespace

void sync_directory(const fs::path& directory) {
  const int fd = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
}

std::string read_file(const fs::path& path, uint64_t limit) {
  const Descriptor file(path);
  check(file.size() <= limit, "{}: is {} bytes long, more than the {} that make sense here", path.string(), file.size(),
        limit);
  std::string text;
  // Pipes and /proc files have no size: read to the end either way.
  size_t capacity = file.regular() && file.size() > 0 ? static_cast<size_t>(file.size()) + 1 : size_t{1} << 16;
  size_t used = 0;
  for (;;) {
    if (used == capacity) {
      capacity *= 2;
    }
    text.resize(capacity);
    const ssize_t got = ::read(file.fd(), text.data() + used, capacity - used);
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail(path, "read", errno);
    }
    if (got == 0) {
      break;
    }
    used += static_cast<size_t>(got);
    check(used <= limit, "{}: is longer than the {} bytes that make sense here", path.string(), limit);
  }
  text.resize(used);
  return text;
}

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  fd_ = Descriptor(path_).give();
}

InputFile::~InputFile() {
  ::close(fd_);
}

size_t InputFile::read(char* out, size_t size) {
  size_t used = 0;
  while (used < size) {
    const ssize_t got = ::read(fd_, out + used, std::min(size - used, size_t{1} << 30));
    if (got < 0 && errno != EINTR) {
      fail(path_, "read", errno);
    }
    if (got == 0) {
      break;
    }
    used += got > 0 ? static_cast<size_t>(got) : 0;
  }
  return used;
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  std::error_code ignored;
  const fs::file_status target = fs::status(path_, ignored);
  check(!fs::exists(target) || fs::is_regular_file(target),  // or the rename would put a file in a device's place
        "{}: cannot be written: it is {}, not a file", path_.string(),
        fs::is_directory(target) ? "a folder" : "a device or a pipe");
  static std::atomic<unsigned> counter{0};
  do {  // a name may be taken by what a killed process of the same number left: in a container all have the same
    temporary_ = path_;
    temporary_ += fmt::format(".{}-{}.tmp", ::getpid(), counter.fetch_add(1));
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) {
    fail(path_, "written", errno);
  }
}

AtomicFile::~AtomicFile() {
  close_and_remove();
}

void AtomicFile::close_and_remove() noexcept {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    fd_ = -1;
  }
}

void AtomicFile::write(const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  size_t left = size;
  while (left > 0) {
    // One write takes at most 2^31 - 4096 bytes on Linux.
    const ssize_t put = ::write(fd_, at, std::min(left, size_t{1} << 30));
    if (put < 0) {
      if (errno == EINTR) {
        continue;
      }
      const int error = errno;
      close_and_remove();
      fail(path_, "written", error);
    }
    at += put;
    left -= static_cast<size_t>(put);
  }
  written_ += size;
}

void AtomicFile::commit() {
  int error = ::fsync(fd_) == 0 ? 0 : errno;
  if (::close(fd_) != 0 && error == 0) {
    error = errno;
  }
  fd_ = -1;
  if (error == 0 && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    error = errno;
  }
  if (error != 0) {
    ::unlink(temporary_.c_str());
    fail(path_, "written", error);
  }
  sync_directory(path_.parent_path());
}

std::vector<fs::path> unfinished_files(const fs::path& directory) {
  static const std::regex name(R"(.+\.[0-9]+-[0-9]+\.tmp)");
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.is_regular_file(ignored) && std::regex_match(entry.path().filename().string(), name)) {
      files.push_back(entry.path());
    }
  }
  return files;
}

void write_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  check(!error && fs::is_directory(path), "{}: the folder cannot be made: {}", path.string(),
        error ? error.message() : "a file of that name is in the way");
}

fs::path cache_directory() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string own = variable("MLX_MAMBA_CACHE"); !own.empty()) {
    return own;
  }
  if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) {
    return fs::path(xdg) / "mlx-mamba";
  }
  const std::string home = variable("HOME");
  return fs::path(home.empty() ? "/" : home) / ".cache" / "mlx-mamba";
}

namespace {

// What is mapped, by its first byte. Never destroyed: files may outlive whatever has a destructor.
struct Mappings {
  std::mutex mutex;
  std::map<const std::byte*, size_t> sizes;
};

Mappings& mappings() {
  static auto& all = *new Mappings;
  return all;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(path);
  check(file.regular(), "{}: cannot be mapped: not a regular file", path.string());
  size_ = static_cast<size_t>(file.size());
  if (size_ == 0) {
    return;
  }
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (mapped == MAP_FAILED) {
    fail(path, "mapped", errno);
  }
  data_ = static_cast<const std::byte*>(mapped);
  const std::lock_guard lock(mappings().mutex);
  mappings().sizes.emplace(data_, size_);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    {
      const std::lock_guard lock(mappings().mutex);
      mappings().sizes.erase(data_);
    }
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

void MappedFile::release() const {
  if (data_ != nullptr) {
    ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);  // advice: nothing is lost when it is not taken
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

bool in_mapped_file(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  const std::lock_guard lock(mappings().mutex);
  const auto& sizes = mappings().sizes;
  auto after = sizes.upper_bound(at);
  return after != sizes.begin() && (--after, at < after->first + after->second);
}

}  // namespace mamba
