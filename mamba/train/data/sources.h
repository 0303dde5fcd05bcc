// The files behind the paths that somebody named.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace mamba::train {

enum class SourceKind { kText, kJsonLines, kNpy, kBin };

struct Source {
  std::filesystem::path path;
  SourceKind kind;
  uint64_t size = 0;     // bytes
  int64_t modified = 0;  // nanoseconds, on whatever clock the file system has
  int64_t changed = 0;   // the same of content, owner, mode or name: what a modification time was set back to is seen
};

// Files as they were named; a named file of unknown extension is text. In folders, at any depth, what ends in .txt,
// .text, .md, .jsonl, .npy or .bin, sorted by name within each folder; other and hidden files and folders are left out
// (warn_once() says how many). Throws UsageError for a path that does not exist, a folder without such files, and an
// empty list.
std::vector<Source> find_sources(const std::vector<std::filesystem::path>& paths);

// One file; throws Error when it cannot be read or is no regular file.
Source source_at(const std::filesystem::path& path, SourceKind kind);

}  // namespace mamba::train
