// GPT-2's rule for words, which byte-level tokenizers share:
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// Written out, since a regular expression engine takes ten times as long.
#pragma once

#include <cstddef>
#include <string_view>

namespace mamba::text {

inline constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Where the word that begins at text[at] ends. Words follow each other without gaps. Requires well-formed UTF-8 and
// at < text.size(), at the start of a word. Letters and numbers are those of pattern.h.
size_t gpt2_word_end(std::string_view text, size_t at);

// A place at or before `limit` where a word begins whatever stands around the text, as far behind as possible; where
// there is none, `limit` or the start of its character. Requires 0 < limit < text.size().
size_t gpt2_cut(std::string_view text, size_t limit);

}  // namespace mamba::text
