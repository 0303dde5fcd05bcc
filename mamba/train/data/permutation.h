// Random order without a list: a permutation of [0, count) that is computed where it is asked for.
#pragma once

#include <cstdint>

namespace mamba::train {

// A Feistel network over the next power of four, walked until it lands in [0, count): four steps at most on average.
class Permutation {
 public:
  Permutation(int64_t count, uint64_t seed, uint64_t epoch);

  int64_t operator()(int64_t index) const;  // `index` in [0, count)

 private:
  static constexpr int kRounds = 8;
  uint64_t count_;
  uint64_t keys_[kRounds];
  int half_bits_;
};

}  // namespace mamba::train
