// UTF-8 and the classes of characters that tokenizers tell apart. The classes are those of Hugging Face's tokenizers,
// whatever version of Unicode the installed libraries know (tools/make_unicode_tables.py says how they are made).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mamba::text {

struct CodePoint {
  char32_t value;
  size_t size;  // bytes
};

// The code point at text[at]. Requires well-formed UTF-8 and `at` at the start of a character.
CodePoint code_point_at(std::string_view text, size_t at);

// Where the character before text[at] starts. Requires well-formed UTF-8 and at > 0.
size_t previous_character(std::string_view text, size_t at);

// Appends `value`; requires a scalar value (at most 0x10FFFF, no surrogate).
void append_utf8(std::string& out, char32_t value);

// How the bytes at text[at] read: as a character of `size` bytes, as bytes that can begin no character (`size` of
// them: the maximal subpart, for which one U+FFFD stands), or as a character that the end of `text` cuts short.
enum class Form { kCharacter, kIllFormed, kCutShort };
struct Sequence {
  Form form;
  size_t size;
};
Sequence sequence_at(std::string_view text, size_t at);

// Bytes of `text` from the start that are well-formed UTF-8.
size_t well_formed_prefix(std::string_view text);

// Each maximal ill-formed subpart becomes one U+FFFD, as in Python's bytes.decode("utf-8", "replace") and as the
// Unicode standard recommends.
std::string replace_ill_formed(std::string_view text);

bool is_whitespace(char32_t c);   // White_Space
bool is_word(char32_t c);         // \w of Rust's regex: letters, marks, decimal digits, connectors, joiners
bool is_numeric(char32_t c);      // N*
bool is_punctuation(char32_t c);  // all of ASCII's, and P* elsewhere

// Appends the lower case of `c` (two characters for U+0130; final sigma is not treated apart).
void append_lower(std::string& out, char32_t c);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// The text in a normal form. Linear in the text but for the sorting of runs of combining marks (n log n).
// Requires well-formed UTF-8; throws Error when utf8proc fails.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace mamba::text
