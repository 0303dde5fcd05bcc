// Files that appear whole or not at all, and files read without a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"

namespace mamba {

// The whole file. Throws Error "<path>: cannot be read: <reason>", also for a folder. At most `limit` bytes.
std::string read_file(const std::filesystem::path& path, uint64_t limit = uint64_t{1} << 32);

// Writes beside `path`, which must not be a folder or a device, under a temporary name; commit() makes the data durable
// (fsync) and renames it into place. Without commit() the destructor removes what was written and `path` is untouched.
// Not thread-safe.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  // throws Error when it cannot be written
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);  // throws Error, e.g. on a full disk
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();
  uint64_t written() const { return written_; }

 private:
  void close_and_remove() noexcept;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  uint64_t written_ = 0;
};

// What AtomicFile left in a folder because its process was killed, or what one is still writing.
std::vector<std::filesystem::path> unfinished_files(const std::filesystem::path& directory);

// Reads a file piece by piece, for what may be larger than the memory. Not thread-safe.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);  // throws Error when it cannot be read
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // The next at most `size` bytes; fewer only at the end. Throws Error.
  size_t read(char* out, size_t size);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// AtomicFile in one call.
void write_file(const std::filesystem::path& path, std::string_view text);

// Makes `path` and its parents. Throws Error with the reason.
void make_directories(const std::filesystem::path& path);

// Where what can be made anew is kept: $MLX_MAMBA_CACHE, else mlx-mamba in $XDG_CACHE_HOME or in ~/.cache.
std::filesystem::path cache_directory();

// Makes names that were renamed or removed in the folder durable (fsync). A file system that cannot is no error.
void sync_directory(const std::filesystem::path& directory);

// A read-only private mapping of a whole file; an empty file maps to an empty span. Movable.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

  // Takes the pages that were read out of this process' memory; they are read anew when they are needed again. For
  // those who walk through a file that is larger than the memory.
  void release() const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Whether a MappedFile that lives holds what is at `address`.
bool in_mapped_file(const void* address);

}  // namespace mamba
