// Zip archives as torch writes them: records that are mostly stored, not compressed, and can be read where they lie.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/io/block.h"

namespace mamba::io {

// Opens and checks the whole directory of an archive. Throws ParseError for anything but plain stored and deflated
// entries, for entries that reach outside the file, and for archives whose compressed entries claim to be far larger
// than weights compress: those would fill the memory. Thread-safe.
class ZipArchive {
 public:
  struct Entry {
    std::string name;
    uint64_t size;        // as it is when read
    uint64_t compressed;  // in the file
    bool stored;
    uint64_t offset;  // of its data in the file
  };

  ZipArchive(Block bytes, std::string file);
  ~ZipArchive();
  ZipArchive(ZipArchive&&) noexcept;
  ZipArchive& operator=(ZipArchive&&) noexcept;

  const std::vector<Entry>& entries() const;
  const Entry* find(std::string_view name) const;  // null when absent

  // The entry's bytes: in the file for a stored one, else inflated, checked against its CRC, and shared by everyone
  // who holds it at the time.
  Block data(const Entry& entry) const;

  // The entry's bytes, always read through and checked against the CRC. At most `limit` bytes, else ParseError.
  std::string read(const Entry& entry, uint64_t limit) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mamba::io
