#include "mamba/text/gpt2_words.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "mamba/text/pattern.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

std::vector<size_t> ends_by_pattern(std::string_view text) {
  static const Pattern pattern = Pattern::regex(kGpt2Pattern, "test");
  std::vector<size_t> ends;
  pattern.for_each(text, [&](size_t, size_t end, bool) { ends.push_back(end); });
  return ends;
}

std::vector<size_t> ends_by_hand(std::string_view text) {
  std::vector<size_t> ends;
  for (size_t at = 0; at < text.size();) {
    at = gpt2_word_end(text, at);
    ends.push_back(at);
  }
  return ends;
}

TEST(Gpt2Words, AreThoseOfThePattern) {
  for (const char* text : {"a",
                           " ",
                           "  ",
                           "\n",
                           " a",
                           "  a",
                           "a ",
                           "a  ",
                           "a \n b",
                           "it's 'tis ''s 'S 'll 'l 're 'r 've 'v 'm 'd",
                           "' s",
                           "x'",
                           "'",
                           " '",
                           " 's",
                           "3.14 1,000",
                           "\u00a0x",
                           "x\u3000y",
                           "\u0660\u0661",
                           "\u00bd cup",
                           "caf\u00e9 e\u0301",
                           "\u2028\u2029",
                           "a\u200bb",
                           "\x1c\x1d\x1e\x1f\x85",
                           "\u0085 x",
                           "  \u5b57"}) {
    const std::string well_formed = replace_ill_formed(text);
    EXPECT_EQ(ends_by_hand(well_formed), ends_by_pattern(well_formed)) << text;
  }
}

TEST(Gpt2Words, AreThoseOfThePatternInRandomText) {
  const std::vector<std::string> pieces = {
      "a", "Z", " ",      "  ",     "\n", "\t",     "'",      "s",      "ll",     "re",     "1",          "23",
      ".", "-", "\u00e9", "\u5b57", "\"", "\u00a0", "\u0301", "\u0663", "\u2003", "\u00b2", "\U0001f600", "\u0345"};
  std::mt19937 random(5);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (size_t j = random() % 30; j > 0; --j) {
      text += pieces[random() % pieces.size()];
    }
    if (!text.empty()) {
      ASSERT_EQ(ends_by_hand(text), ends_by_pattern(text)) << text;
    }
  }
}

TEST(Gpt2Words, KnowTheClassOfEveryCharacter) {
  for (char32_t first = 0; first < 0x110000; first += 0x400) {
    std::string text;
    for (char32_t c = first; c < first + 0x400; ++c) {
      if (c < 0xD800 || c > 0xDFFF) {
        append_utf8(text, c);
        text += "a1.";
      }
    }
    if (!text.empty()) {
      ASSERT_EQ(ends_by_hand(text), ends_by_pattern(text)) << "from " << static_cast<uint32_t>(first);
    }
  }
}

TEST(Gpt2Words, AreTheSameOnBothSidesOfACut) {
  const std::string text = "One two,  three\n\nfour five.\n six'll 7 8\n\n nine  \n ten \u5b57 \u5b57";
  for (size_t limit = 1; limit < text.size(); ++limit) {
    const size_t cut = gpt2_cut(text, limit);
    ASSERT_GT(cut, 0u);
    ASSERT_LE(cut, limit);
    const std::vector<size_t> whole = ends_by_hand(text);
    if (limit > 3) {  // the first word has no earlier place to cut
      std::vector<size_t> parts = ends_by_hand(std::string_view(text).substr(0, cut));
      for (const size_t end : ends_by_hand(std::string_view(text).substr(cut))) {
        parts.push_back(cut + end);
      }
      EXPECT_EQ(parts, whole) << "cut at " << cut;
    }
  }
  EXPECT_EQ(gpt2_cut("\u5b57\u5b57", 4), 3u);
}

}  // namespace
}  // namespace mamba::text
