// The pre-tokenizer steps that cut words at matches.
#pragma once

#include <functional>
#include <memory>

#include "mamba/text/pattern.h"
#include "mamba/text/pre_tokenizer.h"

namespace mamba::text {

// What becomes of a match: dropped, a word of its own, the end of the word before it, the beginning of the word after
// it, or one word together with the matches that touch it.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Throws ParseError unless `name` is one of tokenizer.json's names.
SplitBehavior split_behavior(const JsonObject& owner, const std::string& name);

// With `invert`, what lies between the matches is what `behavior` applies to.
std::shared_ptr<const PreTokenizerStep> split_at_pattern(Pattern pattern, bool invert, SplitBehavior behavior);

// Every character of the class is a match.
std::shared_ptr<const PreTokenizerStep> split_at_class(bool (*in_class)(char32_t), SplitBehavior behavior);

// Words are the longest runs of characters of one kind; kind 0 is dropped.
std::shared_ptr<const PreTokenizerStep> split_into_runs(int (*kind)(char32_t));

}  // namespace mamba::text
