#include "mamba/hub/cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "mamba/base/file.h"
#include "mamba/base/warning.h"

namespace mamba::hub {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxRefFile = 4096;

fs::path folder_of(const Options& options, const std::string& repo, std::string* name) {
  check_repo_id(repo);
  if (options.cache_directory.empty()) {
    throw UsageError("no cache folder is given: set Options::cache_directory, or HF_HOME");
  }
  *name = "models--" + repo;
  if (const size_t slash = name->find('/'); slash != std::string::npos) {
    name->replace(slash, 1, "--");
  }
  return options.cache_directory / *name;
}

// Whether symlink() failed because the file system (or the user's rights) rules links out.
bool links_unsupported(int error) {
  return error == EPERM || error == EACCES || error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP ||
         error == EINVAL;
}

fs::path temporary_beside(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  fs::path out = path;
  out += fmt::format(".{}-{}.tmp", ::getpid(), counter.fetch_add(1));
  return out;
}

void rename_over(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int error = errno;
    ::unlink(from.c_str());
    throw Error(fmt::format("{}: cannot be written: {}", to.string(), std::strerror(error)));
  }
}

}  // namespace

bool present(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

RepoCache::RepoCache(const Options& options, const std::string& repo)
    : options_(options), folder_(folder_of(options, repo, &folder_name_)) {}

fs::path RepoCache::lock(const std::string& etag) const {
  return options_.cache_directory / ".locks" / folder_name_ / (etag + ".lock");
}

fs::path RepoCache::pointer(const std::string& commit, const std::string& name) const {
  check_file_name(name);
  return snapshot(commit) / name;
}

std::optional<std::string> RepoCache::commit_of(const std::string& revision) const {
  check_revision(revision);
  if (is_commit(revision)) {
    return revision;
  }
  const fs::path ref = folder_ / "refs" / revision;
  std::error_code error;
  if (!fs::is_regular_file(ref, error)) {
    return std::nullopt;
  }
  std::string text = read_file(ref, kMaxRefFile);
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  if (!is_commit(text)) {
    throw ParseError(ref.string(), ParseError::kNoOffset,
                     fmt::format("must hold a commit of 40 hex digits but holds {}; remove it", quote(text)));
  }
  return text;
}

std::optional<fs::path> RepoCache::find(const std::string& revision, const std::string& name) const {
  const std::optional<std::string> commit = commit_of(revision);
  if (!commit) {
    return std::nullopt;
  }
  fs::path path = pointer(*commit, name);
  return present(path) ? std::optional(std::move(path)) : std::nullopt;
}

bool RepoCache::known_missing(const std::string& commit, const std::string& name) const {
  check_file_name(name);
  std::error_code error;
  return fs::is_regular_file(folder_ / ".no_exist" / commit / name, error);
}

void RepoCache::remember_missing(const std::string& commit, const std::string& name) const {
  check_file_name(name);
  const fs::path path = folder_ / ".no_exist" / commit / name;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd >= 0) {
    ::close(fd);
  }
}

void RepoCache::remember_commit(const std::string& revision, const std::string& commit) const {
  if (revision == commit) {
    return;
  }
  try {
    const fs::path ref = folder_ / "refs" / revision;
    if (present(ref) && read_file(ref, kMaxRefFile) == commit) {
      return;
    }
    make_directories(ref.parent_path());
    write_file(ref, commit);
  } catch (const Error& e) {
    warn_once(fmt::format("offline, {} will not be found by the name {}: {}", folder_name_, quote(revision), e.what()));
  }
}

void RepoCache::make_folders(const std::string& etag, const fs::path& pointer) const {
  make_directories(folder_ / "blobs");
  make_directories(pointer.parent_path());
  make_directories(lock(etag).parent_path());
  const fs::path tag = options_.cache_directory / "CACHEDIR.TAG";
  if (!present(tag)) {
    try {  // backup tools skip folders that hold this (bford.info/cachedir)
      write_file(tag,
                 "Signature: 8a477f597d28d172789f06886806bc55\n"
                 "# Models fetched by name; they can be fetched again. See https://bford.info/cachedir/\n");
    } catch (const Error&) {  // a courtesy, no more
    }
  }
}

void RepoCache::link(const std::string& etag, const fs::path& pointer, bool new_blob) const {
  const fs::path target = blob(etag).lexically_relative(pointer.parent_path());
  int error = EPERM;
  if (options_.symlinks) {
    if (::symlink(target.c_str(), pointer.c_str()) == 0) {
      return;
    }
    error = errno;
    if (error == EEXIST) {  // a dangling link, or another process was quicker: replace it in one step
      const fs::path temporary = temporary_beside(pointer);
      if (::symlink(target.c_str(), temporary.c_str()) == 0) {
        rename_over(temporary, pointer);
        return;
      }
      error = errno;
    }
  }
  check(links_unsupported(error), "{}: cannot be linked to its content: {}", pointer.string(), std::strerror(error));
  if (new_blob) {
    rename_over(blob(etag), pointer);
    return;
  }
  const fs::path temporary = temporary_beside(pointer);
  std::error_code copied;
  fs::copy_file(blob(etag), temporary, copied);
  if (copied) {
    ::unlink(temporary.c_str());
    throw Error(fmt::format("{}: cannot be written: {}", pointer.string(), copied.message()));
  }
  rename_over(temporary, pointer);
}

}  // namespace mamba::hub
