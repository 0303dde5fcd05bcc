#include "mamba/train/data/packing.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace mamba::train {

Packing::Packing(std::span<const int64_t> lengths, int64_t capacity) {
  if (lengths.empty()) {
    return;
  }
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  const auto length = [&](int64_t item) { return lengths[static_cast<size_t>(item)]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return length(a) > length(b); });

  std::vector<int64_t> window_of(lengths.size());
  std::map<int64_t, std::vector<int64_t>> by_room;  // windows by the positions left in them
  int64_t windows = 0;
  for (const int64_t item : order) {
    int64_t window = windows;
    int64_t room = capacity;
    const auto found = by_room.lower_bound(length(item));
    if (found == by_room.end()) {
      ++windows;
    } else {
      room = found->first;
      window = found->second.back();
      found->second.pop_back();
      if (found->second.empty()) {
        by_room.erase(found);
      }
    }
    window_of[static_cast<size_t>(item)] = window;
    if (room > length(item)) {
      by_room[room - length(item)].push_back(window);
    }
  }

  // Numbers windows by their first items, then sorts the items into them.
  std::vector<int64_t> number(static_cast<size_t>(windows), -1);
  std::vector<int64_t> next(static_cast<size_t>(windows) + 1, 0);
  int64_t numbered = 0;
  for (int64_t& window : window_of) {
    int64_t& own = number[static_cast<size_t>(window)];
    own = own < 0 ? numbered++ : own;
    window = own;
    ++next[static_cast<size_t>(window) + 1];
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  starts_ = next;
  items_.resize(lengths.size());
  for (size_t item = 0; item < window_of.size(); ++item) {
    items_[static_cast<size_t>(next[static_cast<size_t>(window_of[item])]++)] = static_cast<int64_t>(item);
  }
}

std::span<const int64_t> Packing::items(int64_t window) const {
  const auto begin = static_cast<size_t>(starts_[static_cast<size_t>(window)]);
  const auto end = static_cast<size_t>(starts_[static_cast<size_t>(window) + 1]);
  return std::span(items_).subspan(begin, end - begin);
}

}  // namespace mamba::train
