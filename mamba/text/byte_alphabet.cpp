#include "mamba/text/byte_alphabet.h"

#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

bool stands_for_itself(int byte) {
  return (byte > ' ' && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
}

struct Alphabet {
  std::array<std::string, 256> character;
  std::array<int16_t, 0x180> byte;  // by code point; -1: none

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const char32_t c = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
      append_utf8(character[static_cast<size_t>(b)], c);
      byte[c] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view byte_character(unsigned char byte) {
  return alphabet().character[byte];
}

void append_as_characters(std::string& out, std::string_view text) {
  for (char c : text) {
    out += byte_character(static_cast<unsigned char>(c));
  }
}

std::optional<std::string> bytes_of_characters(std::string_view characters) {
  const Alphabet& a = alphabet();
  std::string out;
  out.reserve(characters.size());
  for (size_t at = 0; at < characters.size();) {
    const Sequence sequence = sequence_at(characters, at);
    const char32_t c = sequence.form == Form::kCharacter ? code_point_at(characters, at).value : 0xFFFD;
    if (c >= a.byte.size() || a.byte[c] < 0) {
      return std::nullopt;
    }
    out += static_cast<char>(static_cast<unsigned char>(a.byte[c]));
    at += sequence.size;
  }
  return out;
}

}  // namespace mamba::text
