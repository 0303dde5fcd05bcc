#include "mamba/train/data/checksum.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mamba/base/mix_bits.h"
#include "mamba/base/threads.h"

namespace mamba::train {
namespace {

uint64_t combine(uint64_t so_far, uint64_t block) {
  return mix_bits(so_far * 3 ^ block);
}

}  // namespace

// Four lanes, since one would wait for its multiplication: some 10 GB/s instead of 3.
uint64_t hash_bytes(const void* data, size_t size, uint64_t seed) {
  constexpr uint64_t kMultiplier = 0x9fb21c651e98df25u;
  const auto* at = static_cast<const unsigned char*>(data);
  uint64_t lanes[4] = {seed, seed + 1, seed + 2, seed + 3};
  size_t left = size;
  for (; left >= 32; left -= 32, at += 32) {
    uint64_t words[4];
    std::memcpy(words, at, sizeof(words));
    for (int i = 0; i < 4; ++i) {
      const uint64_t mixed = (lanes[i] ^ words[i]) * kMultiplier;
      lanes[i] = mixed ^ (mixed >> 29);
    }
  }
  uint64_t out = mix_bits(size ^ seed);
  for (; left > 0;) {
    uint64_t word = 0;
    const size_t part = std::min<size_t>(left, 8);
    std::memcpy(&word, at, part);
    out = mix_bits(out ^ word);
    at += part;
    left -= part;
  }
  for (const uint64_t lane : lanes) {
    out = mix_bits(out ^ lane);
  }
  return out;
}

std::string fingerprint_of(std::string_view text) {
  return fmt::format("{:016x}{:016x}", hash_bytes(text.data(), text.size(), 1),
                     hash_bytes(text.data(), text.size(), 0x5851f42d4c957f2du));
}

void BlockChecksum::update(const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const size_t part = std::min(size, kBlock - pending_.size());
    pending_.append(at, part);
    at += part;
    size -= part;
    if (pending_.size() == kBlock) {
      combined_ = combine(combined_, hash_bytes(pending_.data(), kBlock));
      pending_.clear();
    }
  }
}

uint64_t BlockChecksum::finish() {
  if (!pending_.empty()) {
    combined_ = combine(combined_, hash_bytes(pending_.data(), pending_.size()));
    pending_.clear();
  }
  return combined_;
}

uint64_t BlockChecksum::of(const MappedFile& file) {
  constexpr size_t kBlocksAtOnce = 32;
  uint64_t combined = 0;
  std::vector<uint64_t> hashes;
  for (size_t at = 0; at < file.size();) {
    const size_t size = std::min(file.size() - at, kBlocksAtOnce * kBlock);
    hashes.resize((size + kBlock - 1) / kBlock);
    parallel_for(static_cast<int64_t>(hashes.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        hashes[i] = hash_bytes(file.data() + at + i * kBlock, std::min(kBlock, size - i * kBlock));
      }
    });
    for (const uint64_t hash : hashes) {
      combined = combine(combined, hash);
    }
    file.release();
    at += size;
  }
  return combined;
}

}  // namespace mamba::train
