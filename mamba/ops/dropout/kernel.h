// The mask of dropout and the kernel that applies it. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::dropout_detail {

// MurmurHash3's finaliser (Appleby 2011): every bit of the input reaches every bit of the result.
inline constexpr uint32_t kFirstFactor = 0x85EBCA6Bu;
inline constexpr uint32_t kSecondFactor = 0xC2B2AE35u;

struct Mask {
  uint32_t low;  // halves of the seed
  uint32_t high;
  uint32_t threshold;  // an element stays where its hash / 2 is at least this
  float scale;         // of what stays
  bool operator==(const Mask&) const = default;
};

struct Job {
  int64_t count;
  const void* x;
  void* y;
  cpu::Element element;
  Mask mask;
};

void apply(const Job& job);

}  // namespace mamba::ops::dropout_detail
