// Tells damaged and stale files from good ones. No protection against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "mamba/base/file.h"

namespace mamba::train {

uint64_t hash_bytes(const void* data, size_t size, uint64_t seed = 0);

// 32 hexadecimal digits.
std::string fingerprint_of(std::string_view text);

// The hash of a file from those of its blocks, so that it can be computed on the way and on all cores.
class BlockChecksum {
 public:
  static constexpr size_t kBlock = size_t{1} << 20;

  void update(const void* data, size_t size);
  uint64_t finish();

  // The same of a whole file, on all cores. Leaves none of it in memory.
  static uint64_t of(const MappedFile& file);

 private:
  std::string pending_;  // less than a block
  uint64_t combined_ = 0;
};

}  // namespace mamba::train
