// How often each word occurs: a hash table of short strings that live in one piece of memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mamba::text {

class WordCounts {
 public:
  WordCounts() : slots_(1024, 0) {}

  void add(std::string_view word, int64_t count = 1) {
    const uint64_t hash = std::hash<std::string_view>{}(word);
    size_t at = hash & (slots_.size() - 1);
    for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
      Entry& entry = entries_[slots_[at] - 1];
      if (entry.hash == hash && text_of(entry) == word) {
        entry.count += count;
        return;
      }
    }
    entries_.push_back({hash, count, text_.size(), word.size()});
    text_.append(word);
    slots_[at] = static_cast<uint32_t>(entries_.size());
    if (2 * entries_.size() > slots_.size()) {
      grow();
    }
  }

  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const Entry& entry : entries_) {
      visit(text_of(entry), entry.count);
    }
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t hash;
    int64_t count;
    size_t begin;
    size_t size;
  };

  std::string_view text_of(const Entry& entry) const { return std::string_view(text_).substr(entry.begin, entry.size); }

  void grow() {
    slots_.assign(slots_.size() * 2, 0);
    for (size_t i = 0; i < entries_.size(); ++i) {
      size_t at = entries_[i].hash & (slots_.size() - 1);
      while (slots_[at] != 0) {
        at = (at + 1) & (slots_.size() - 1);
      }
      slots_[at] = static_cast<uint32_t>(i + 1);
    }
  }

  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // an entry's number, from 1; 0: free
  std::string text_;
};

}  // namespace mamba::text
