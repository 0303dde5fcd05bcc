// Python's string functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/text/jinja/value.h"

namespace mamba::text::jinja {

// Without the characters of `chars` at the sides named; without `chars`, without white space. Throws Error when `chars`
// is no string.
std::string stripped(std::string_view text, const Value* chars, bool left, bool right);

// Parts between `separator`; an empty one stands for any white space. At most `limit` cuts, from the right if so told;
// < 0: all.
std::vector<std::string> split_text(std::string_view text, std::string_view separator, int64_t limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text);

// The first `count` occurrences; < 0: all. Throws Error when the result becomes too long.
std::string replaced(std::string_view text, std::string_view old, std::string_view with, int64_t count);

enum class Case { kUpper, kLower, kTitle, kCapitalized };
std::string in_case(std::string_view text, Case wanted);

}  // namespace mamba::text::jinja
