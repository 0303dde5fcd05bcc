#include "mamba/train/data/permutation.h"

#include "mamba/base/mix_bits.h"

namespace mamba::train {

Permutation::Permutation(int64_t count, uint64_t seed, uint64_t epoch)
    : count_(static_cast<uint64_t>(count)), half_bits_(1) {
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < count_) {
    ++half_bits_;
  }
  uint64_t key = mix_bits(mix_bits(seed) ^ epoch);
  for (uint64_t& round_key : keys_) {
    key = mix_bits(key);
    round_key = key;
  }
}

int64_t Permutation::operator()(int64_t index) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (const uint64_t key : keys_) {
      const uint64_t mixed = left ^ (mix_bits(right ^ key) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits_ | right;
  } while (value >= count_);
  return static_cast<int64_t>(value);
}

}  // namespace mamba::train
