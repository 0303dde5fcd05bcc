#include "mamba/text/split.h"

#include <algorithm>
#include <map>

#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

struct Stretch {
  size_t begin;
  size_t end;
  bool is_match;
};

// Merges stretches in place as `behavior` says and drops what it removes.
void combine(std::vector<Stretch>& stretches, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kIsolated) {
    return;
  }
  if (behavior == SplitBehavior::kRemoved) {
    std::erase_if(stretches, [](const Stretch& s) { return s.is_match; });
    return;
  }
  // Seen from the end, merging with the next word is merging with the previous one.
  const bool backward = behavior == SplitBehavior::kMergedWithNext;
  if (backward) {
    std::reverse(stretches.begin(), stretches.end());
  }
  std::vector<Stretch> out;
  bool previous_match = false;
  for (const Stretch& s : stretches) {
    const bool joins =
        behavior == SplitBehavior::kContiguous ? s.is_match == previous_match : s.is_match && !previous_match;
    if (joins && !out.empty()) {
      out.back().begin = std::min(out.back().begin, s.begin);
      out.back().end = std::max(out.back().end, s.end);
    } else {
      out.push_back(s);
    }
    previous_match = s.is_match;
  }
  if (backward) {
    std::reverse(out.begin(), out.end());
  }
  stretches = std::move(out);
}

void append_words(const Words::Word& word, const std::vector<Stretch>& stretches, std::vector<Words::Word>& out) {
  for (const Stretch& s : stretches) {
    if (s.begin < s.end) {
      out.push_back({word.text.substr(s.begin, s.end - s.begin), word.at_start && s.begin == 0});
    }
  }
}

class SplitAtPattern : public PreTokenizerStep {
 public:
  SplitAtPattern(Pattern pattern, bool invert, SplitBehavior behavior)
      : pattern_(std::move(pattern)), invert_(invert), behavior_(behavior) {}

  void apply(Words& words) const override {
    std::vector<Words::Word> out;
    std::vector<Stretch> stretches;
    for (const Words::Word& word : words.list) {
      stretches.clear();
      pattern_.for_each(word.text, [&](size_t begin, size_t end, bool is_match) {
        stretches.push_back({begin, end, is_match != invert_});
      });
      combine(stretches, behavior_);
      append_words(word, stretches, out);
    }
    words.list = std::move(out);
  }

 private:
  Pattern pattern_;
  bool invert_;
  SplitBehavior behavior_;
};

class SplitAtClass : public PreTokenizerStep {
 public:
  SplitAtClass(bool (*in_class)(char32_t), SplitBehavior behavior) : in_class_(in_class), behavior_(behavior) {}

  void apply(Words& words) const override {
    std::vector<Words::Word> out;
    std::vector<Stretch> stretches;
    for (const Words::Word& word : words.list) {
      stretches.clear();
      size_t done = 0;
      for (size_t at = 0; at < word.text.size();) {
        const CodePoint c = code_point_at(word.text, at);
        const size_t end = at + c.size;
        if (in_class_(c.value)) {
          if (done < at) {
            stretches.push_back({done, at, false});
          }
          stretches.push_back({at, end, true});
          done = end;
        }
        at = end;
      }
      if (done < word.text.size()) {
        stretches.push_back({done, word.text.size(), false});
      }
      combine(stretches, behavior_);
      append_words(word, stretches, out);
    }
    words.list = std::move(out);
  }

 private:
  bool (*in_class_)(char32_t);
  SplitBehavior behavior_;
};

class SplitIntoRuns : public PreTokenizerStep {
 public:
  explicit SplitIntoRuns(int (*kind)(char32_t)) : kind_(kind) {}

  void apply(Words& words) const override {
    std::vector<Words::Word> out;
    for (const Words::Word& word : words.list) {
      size_t begin = 0;
      int previous = 0;
      const auto close = [&](size_t end) {
        if (previous != 0) {
          out.push_back({word.text.substr(begin, end - begin), word.at_start && begin == 0});
        }
      };
      for (size_t at = 0; at < word.text.size();) {
        const CodePoint c = code_point_at(word.text, at);
        const int kind = kind_(c.value);
        if (kind != previous) {
          close(at);
          begin = at;
          previous = kind;
        }
        at += c.size;
      }
      close(word.text.size());
    }
    words.list = std::move(out);
  }

 private:
  int (*kind_)(char32_t);
};

}  // namespace

SplitBehavior split_behavior(const JsonObject& owner, const std::string& name) {
  static const std::map<std::string, SplitBehavior> kNames = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  const auto found = kNames.find(name);
  if (found == kNames.end()) {
    owner.fail(fmt::format("split behavior {} is not supported", quote(name)));
  }
  return found->second;
}

std::shared_ptr<const PreTokenizerStep> split_at_pattern(Pattern pattern, bool invert, SplitBehavior behavior) {
  return std::make_shared<SplitAtPattern>(std::move(pattern), invert, behavior);
}

std::shared_ptr<const PreTokenizerStep> split_at_class(bool (*in_class)(char32_t), SplitBehavior behavior) {
  return std::make_shared<SplitAtClass>(in_class, behavior);
}

std::shared_ptr<const PreTokenizerStep> split_into_runs(int (*kind)(char32_t)) {
  return std::make_shared<SplitIntoRuns>(kind);
}

}  // namespace mamba::text
