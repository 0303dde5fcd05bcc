// The tables behind unicode.h, sorted and without overlaps. Made by tools/make_unicode_tables.py.
#pragma once

#include <array>
#include <cstdint>

namespace mamba::text::tables {

struct Range {
  char32_t first;
  char32_t last;
};

// The code points first, first + stride, ... last become themselves plus `delta`.
struct LowerRow {
  char32_t first;
  char32_t last;
  uint32_t stride;
  int32_t delta;
};

struct CategoryRow {
  char32_t first;
  char32_t last;
  char category[3];
};

extern const std::array<Range, 10> kWhitespace;
extern const std::array<Range, 796> kWord;
extern const std::array<Range, 146> kNumeric;
extern const std::array<Range, 156> kPunctuation;
extern const std::array<Range, 86> kInert;
extern const std::array<LowerRow, 185> kLower;
extern const std::array<CategoryRow, 126> kNewCategories;

}  // namespace mamba::text::tables
