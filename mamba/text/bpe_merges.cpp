// Every pair knows how often it occurs and in which words it ever did. A merge touches those words alone, and corrects
// the counts of the pairs around each place. The heap is corrected late: an entry whose count is out of date is put
// back with the right one when it comes up, which is sound since a pair's count only falls once its younger token was
// made; a pair with the token made just now gets a new entry.

#include "mamba/text/bpe_merges.h"

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <utility>

namespace mamba::text {
namespace {

using Pair = std::pair<int32_t, int32_t>;

struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t key =
        static_cast<uint64_t>(static_cast<uint32_t>(pair.first)) << 32 | static_cast<uint32_t>(pair.second);
    return static_cast<size_t>((key * 0x9e3779b97f4a7c15u) ^ (key >> 29));
  }
};

struct Known {
  int64_t count = 0;
  std::vector<uint32_t> words;  // ascending, with words that have lost it
};

struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

}  // namespace

void learn_merges(std::vector<CountedWord> words, const MergeFn& merge) {
  std::unordered_map<Pair, Known, PairHash> pairs;
  const auto note = [&](const Pair& pair, uint32_t word) {
    Known& known = pairs[pair];
    known.count += words[word].count;
    if (known.words.empty() || known.words.back() != word) {
      known.words.push_back(word);
    }
  };
  for (uint32_t word = 0; word < words.size(); ++word) {
    const std::vector<int32_t>& ids = words[word].ids;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      note({ids[i], ids[i + 1]}, word);
    }
  }
  std::priority_queue<Candidate> heap;
  for (const auto& [pair, known] : pairs) {
    heap.push({known.count, pair});
  }

  std::vector<Pair> fresh;
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const auto found = pairs.find(top.pair);
    if (found == pairs.end()) {
      continue;
    }
    if (found->second.count != top.count) {
      if (found->second.count > 0) {
        heap.push({found->second.count, top.pair});
      }
      continue;
    }
    const auto [left, right] = top.pair;
    const std::optional<int32_t> token = top.count > 0 ? merge(left, right) : std::nullopt;
    if (!token) {
      return;
    }
    const std::vector<uint32_t> touched = std::move(found->second.words);
    pairs.erase(found);
    fresh.clear();
    for (const uint32_t word : touched) {
      std::vector<int32_t>& ids = words[word].ids;
      const auto lose = [&](int32_t first, int32_t second) {
        const auto lost = pairs.find({first, second});
        if (lost != pairs.end()) {  // else it is the pair that is being merged
          lost->second.count -= words[word].count;
        }
      };
      const auto gain = [&](int32_t first, int32_t second) {
        fresh.emplace_back(first, second);
        note(fresh.back(), word);
      };
      size_t kept = 0;  // ids[0, kept) is the new word so far
      for (size_t i = 0; i < ids.size();) {
        if (i + 1 == ids.size() || ids[i] != left || ids[i + 1] != right) {
          ids[kept++] = ids[i++];
          continue;
        }
        if (kept > 0) {
          lose(ids[kept - 1], left);
          gain(ids[kept - 1], *token);
        }
        if (i + 2 < ids.size()) {
          lose(right, ids[i + 2]);
          gain(*token, ids[i + 2]);
        }
        ids[kept++] = *token;
        i += 2;
      }
      ids.resize(kept);
    }
    std::sort(fresh.begin(), fresh.end());
    fresh.erase(std::unique(fresh.begin(), fresh.end()), fresh.end());
    for (const Pair& pair : fresh) {
      heap.push({pairs[pair].count, pair});
    }
  }
}

}  // namespace mamba::text
