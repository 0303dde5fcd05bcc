// A hash table from a pair of ids to a merge, made for look-ups that mostly miss.
#pragma once

#include <cstdint>
#include <vector>

namespace mamba::text {

struct Merge {
  uint32_t rank;
  int32_t id;
};

class PairMap {
 public:
  // Makes room for `count` pairs. To be called once, before insert().
  void reserve(size_t count) {
    int bits = 4;
    while ((size_t{1} << bits) < 2 * count) {
      ++bits;
    }
    shift_ = 64 - bits;
    slots_.assign(size_t{1} << bits, Slot{});
  }

  // A pair that is there already gets the new merge. Requires that no more than the reserved pairs are inserted.
  void insert(int32_t left, int32_t right, Merge merge) {
    const uint64_t key = key_of(left, right);
    Slot& slot = slots_[find_slot(key)];
    slot.key = key;
    slot.merge = merge;
  }

  const Merge* find(int32_t left, int32_t right) const {
    if (slots_.empty()) {
      return nullptr;
    }
    const Slot& slot = slots_[find_slot(key_of(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative, so no pair has this key
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{};
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  size_t find_slot(uint64_t key) const {
    size_t at = (key * 0x9e3779b97f4a7c15u) >> shift_;
    while (slots_[at].key != kEmpty && slots_[at].key != key) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  std::vector<Slot> slots_;
  int shift_ = 60;
};

}  // namespace mamba::text
