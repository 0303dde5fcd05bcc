// The alphabet in which byte-level vocabularies are written: one printable character for each byte.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace mamba::text {

// The UTF-8 of the character that stands for `byte`: printable bytes of Latin-1 stand for themselves, the others for
// U+0100, U+0101, ... in order.
std::string_view byte_character(unsigned char byte);

// Appends every byte of `text` as its character.
void append_as_characters(std::string& out, std::string_view text);

// The bytes that `characters` stand for, or nothing when one of them is not of the alphabet.
std::optional<std::string> bytes_of_characters(std::string_view characters);

}  // namespace mamba::text
