// The heart of training a byte-pair tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace mamba::text {

// A word as token ids, and how often it occurs.
struct CountedWord {
  std::vector<int32_t> ids;
  int64_t count;
};

// Joins, again and again, the pair of ids that stands together most often in `words`, of several the one with the
// lowest ids, until `merge` says to stop or no pair is left. merge(left, right) returns the id of the joint token;
// nothing: stop. The words are used up.
using MergeFn = std::function<std::optional<int32_t>(int32_t left, int32_t right)>;
void learn_merges(std::vector<CountedWord> words, const MergeFn& merge);

}  // namespace mamba::text
