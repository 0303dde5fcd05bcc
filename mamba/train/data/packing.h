// Which examples share a window.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mamba::train {

// Best fit: the longest first, each into the fullest window that still has room. The same lengths give the same
// packing. Items of one window stand in their order, and windows in that of their first items.
class Packing {
 public:
  Packing() = default;
  // Lengths lie in [1, capacity].
  Packing(std::span<const int64_t> lengths, int64_t capacity);

  int64_t count() const { return starts_.empty() ? 0 : static_cast<int64_t>(starts_.size()) - 1; }
  std::span<const int64_t> items(int64_t window) const;  // indices into `lengths`

 private:
  std::vector<int64_t> items_;
  std::vector<int64_t> starts_;
};

}  // namespace mamba::train
