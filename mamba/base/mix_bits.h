// Random-looking numbers from counters and seeds, the same on every platform.
#pragma once

#include <cstdint>

namespace mamba {

// What SplitMix64 (Steele et al. 2014) adds to its state at each step.
inline constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15u;

// The number that SplitMix64 gives from the state `value`: well-mixed bits, one to one.
constexpr uint64_t mix_bits(uint64_t value) {
  value += kSplitMixStep;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace mamba
