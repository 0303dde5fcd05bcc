#include "mamba/text/gpt2_words.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "mamba/text/pattern.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

enum Class : uint8_t { kOther, kLetter, kNumber, kSpace };

constexpr char32_t kCodePoints = 0x110000;

// Classes of all code points as the pattern's engine sees them.
std::vector<uint8_t> make_classes() {
  std::vector<uint8_t> classes(kCodePoints, kOther);
  std::string characters;
  const auto mark = [&](const char* pattern, Class value) {
    Pattern::regex(pattern, "GPT-2's pattern").for_each(characters, [&](size_t begin, size_t end, bool is_match) {
      for (size_t at = begin; is_match && at < end;) {
        const CodePoint c = code_point_at(characters, at);
        classes[c.value] = value;
        at += c.size;
      }
    });
  };
  // In pieces: a search may take a number of steps that grows with its text.
  for (char32_t first = 0; first < kCodePoints; first += 0x1000) {
    characters.clear();
    for (char32_t c = first; c < first + 0x1000; ++c) {
      if (c < 0xD800 || c > 0xDFFF) {
        append_utf8(characters, c);
      }
    }
    if (!characters.empty()) {
      mark(R"(\p{L}+)", kLetter);
      mark(R"(\p{N}+)", kNumber);
      mark(R"(\s+)", kSpace);
    }
  }
  return classes;
}

constexpr std::array<uint8_t, 128> kAscii = [] {
  std::array<uint8_t, 128> out{};
  for (size_t c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    out[c] = letter ? kLetter : c >= '0' && c <= '9' ? kNumber : c == ' ' || (c >= '\t' && c <= '\r') ? kSpace : kOther;
  }
  return out;
}();

struct Character {
  uint8_t kind;
  size_t size;
};

Character character_at(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) {
    return {kAscii[byte], 1};
  }
  static const std::vector<uint8_t> classes = make_classes();
  const CodePoint c = code_point_at(text, at);
  return {classes[c.value], c.size};
}

// The length of a contraction such as "'ll" at `at`, or 0.
size_t contraction_at(std::string_view text, size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0';
  const char second = at + 2 < text.size() ? text[at + 2] : '\0';
  switch (first) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return second == 'e' ? 3 : 0;
    case 'l':
      return second == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

}  // namespace

size_t gpt2_word_end(std::string_view text, size_t at) {
  if (text[at] == '\'') {
    if (const size_t size = contraction_at(text, at)) {
      return at + size;
    }
  }
  size_t end = at;
  Character c = character_at(text, end);
  if (text[at] == ' ' && at + 1 < text.size()) {
    const Character next = character_at(text, at + 1);
    if (next.kind != kSpace) {
      c = next;
      ++end;
    }
  }
  const uint8_t kind = c.kind;
  size_t last = end;  // where the last character of the run begins
  while (c.kind == kind) {
    last = end;
    end += c.size;
    if (end == text.size()) {
      return end;
    }
    c = character_at(text, end);
  }
  // The last blank before a word belongs to the word, or stands alone.
  return kind == kSpace && last > at ? last : end;
}

size_t gpt2_cut(std::string_view text, size_t limit) {
  for (size_t at = limit; at > 0; --at) {
    const auto next = static_cast<unsigned char>(at + 1 < text.size() ? text[at + 1] : ' ');
    const auto previous = static_cast<unsigned char>(text[at - 1]);
    if ((text[at] == ' ' || text[at] == '\n') && previous < 128 && !is_blank(text[at - 1]) && next < 128 &&
        !is_blank(static_cast<char>(next))) {
      return at;
    }
  }
  while (limit > 1 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) {
    --limit;
  }
  return limit;
}

}  // namespace mamba::text
