#include "mamba/train/data/sources.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "mamba/base/error.h"
#include "mamba/base/warning.h"

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kKnown = ".txt, .text, .md, .jsonl, .npy, .bin";
constexpr int kMaxDepth = 64;

std::optional<SourceKind> kind_of(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c); });
  if (extension == ".jsonl") {
    return SourceKind::kJsonLines;
  }
  if (extension == ".npy") {
    return SourceKind::kNpy;
  }
  if (extension == ".bin") {
    return SourceKind::kBin;
  }
  if (extension == ".txt" || extension == ".text" || extension == ".md") {
    return SourceKind::kText;
  }
  return std::nullopt;
}

struct Walk {
  std::vector<Source> found;
  int64_t left_out = 0;
  fs::path first_left_out;

  void folder(const fs::path& path, int depth) {
    check(depth < kMaxDepth, "{}: folders are nested deeper than {}: do they link to themselves?", path.string(),
          kMaxDepth);
    std::error_code error;
    std::vector<fs::path> entries;
    fs::directory_iterator iterator(path, error);
    for (; !error && iterator != fs::directory_iterator(); iterator.increment(error)) {
      entries.push_back(iterator->path());
    }
    check(!error, "{}: the folder cannot be read: {}", path.string(), error.message());
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) {
      if (entry.filename().string().starts_with('.')) {
        continue;
      }
      if (fs::is_directory(entry, error)) {
        folder(entry, depth + 1);
      } else if (const auto kind = kind_of(entry); kind && fs::is_regular_file(entry, error)) {
        found.push_back(source_at(entry, *kind));
      } else if (left_out++ == 0) {
        first_left_out = entry;
      }
    }
  }
};

}  // namespace

Source source_at(const fs::path& path, SourceKind kind) {
  struct stat info {};
  check(::stat(path.c_str(), &info) == 0, "{}: cannot be read: {}", path.string(), std::strerror(errno));
  check(S_ISREG(info.st_mode), "{}: cannot be read: it is no regular file", path.string());
#ifdef __APPLE__
  const timespec& modified = info.st_mtimespec;
  const timespec& changed = info.st_ctimespec;
#else
  const timespec& modified = info.st_mtim;
  const timespec& changed = info.st_ctim;
#endif
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  };
  return {path, kind, static_cast<uint64_t>(info.st_size), nanoseconds(modified), nanoseconds(changed)};
}

std::vector<Source> find_sources(const std::vector<fs::path>& paths) {
  if (paths.empty()) {
    throw UsageError("no data is given: name files or folders");
  }
  std::vector<Source> out;
  for (const fs::path& path : paths) {
    std::error_code error;
    if (!fs::exists(path, error)) {
      throw UsageError(fmt::format("{}: there is no such file or folder", path.string()));
    }
    if (!fs::is_directory(path, error)) {
      out.push_back(source_at(path, kind_of(path).value_or(SourceKind::kText)));
      continue;
    }
    Walk walk;
    walk.folder(path, 0);
    if (walk.found.empty()) {
      throw UsageError(fmt::format("{}: the folder holds no file that ends in {}", path.string(), kKnown));
    }
    if (walk.left_out > 0) {
      warn_once(fmt::format("{}: {} file{} left out, {} first: in folders only {} are read", path.string(),
                            walk.left_out, walk.left_out == 1 ? " was" : "s were", walk.first_left_out.string(),
                            kKnown));
    }
    out.insert(out.end(), walk.found.begin(), walk.found.end());
  }
  return out;
}

}  // namespace mamba::train
