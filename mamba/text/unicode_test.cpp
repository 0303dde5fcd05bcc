#include "mamba/text/unicode.h"

#include <gtest/gtest.h>

#include <chrono>

#include "mamba/base/json.h"
#include "mamba/text/byte_alphabet.h"
#include "mamba/text/pattern.h"

namespace mamba::text {
namespace {

using namespace std::string_literals;

TEST(Utf8, EveryCodePointSurvives) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c <= 0xdfff) {
      continue;
    }
    std::string text = "x";
    append_utf8(text, c);
    ASSERT_EQ(well_formed_prefix(text), text.size()) << static_cast<uint32_t>(c);
    const CodePoint back = code_point_at(text, 1);
    ASSERT_EQ(back.value, c);
    ASSERT_EQ(back.size, text.size() - 1);
    ASSERT_EQ(previous_character(text, text.size()), 1u);
  }
}

TEST(Utf8, IllFormedBytesBecomeWhatPythonMakesOfThem) {
  const std::string r = "\xef\xbf\xbd";
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"abc", "abc"},
      {"\xff", r},
      {"a\xff"s + "b", "a" + r + "b"},
      {"\xc3", r},
      {"\xe2\x82", r},
      {"\xe2\x82x", r + "x"},
      {"\xf0\x9f\x98", r},
      {"\xf0\x9f\x98\x80\x80", "\xf0\x9f\x98\x80" + r},
      {"\xed\xa0\x80", r + r + r},
      {"\xc0\x80", r + r},
      {"\xe0\x80\xaf", r + r + r},
      {"\xf4\x90\x80\x80", r + r + r + r},
      {"\xf8\x88\x80\x80\x80", r + r + r + r + r},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", r + r + r + r + "A"},
  };
  for (const auto& [bytes, expected] : cases) {
    EXPECT_EQ(replace_ill_formed(bytes), expected) << quote(bytes);
  }
}

TEST(Utf8, ACharacterThatIsCutShortIsToldFromAnIllFormedOne) {
  const std::string text = "\xf0\x9f\x98\x80";
  for (size_t size = 1; size < 4; ++size) {
    const Sequence cut = sequence_at(std::string_view(text).substr(0, size), 0);
    EXPECT_EQ(cut.form, Form::kCutShort);
    EXPECT_EQ(cut.size, size);
  }
  EXPECT_EQ(sequence_at("\xf0\x80", 0).form, Form::kIllFormed);
  EXPECT_EQ(sequence_at("\xf5", 0).form, Form::kIllFormed);
  EXPECT_EQ(sequence_at("\xed\xa0", 0).form, Form::kIllFormed);
}

TEST(Normalize, KnownPairs) {
  EXPECT_EQ(normalize("e\u0301", NormalForm::kNfc), "\u00e9");
  EXPECT_EQ(normalize("\u00e9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(normalize("s\u0307\u0323", NormalForm::kNfc), "\u1e69");
  EXPECT_EQ(normalize("\ufb03\u00bd", NormalForm::kNfkc), "ffi1\u20442");
  EXPECT_EQ(normalize("\u1100\u1161\u11a8", NormalForm::kNfc), "\uac01");
  EXPECT_EQ(normalize("\uac01", NormalForm::kNfkd), "\u1100\u1161\u11a8");
  EXPECT_EQ(normalize("\u0a33", NormalForm::kNfc), "\u0a32\u0a3c");
  EXPECT_EQ(normalize("", NormalForm::kNfc), "");
}

// Bubbling a mark through those before it would take a minute here.
TEST(Normalize, ALongRunOfMarksTakesNoQuadraticTime) {
  std::string text = "a";
  std::string ordered = "a";
  for (int i = 0; i < 200'000; ++i) {
    text += "\u0301\u0334";
  }
  for (const char* mark : {"\u0334", "\u0301"}) {
    for (int i = 0; i < 200'000; ++i) {
      ordered += mark;
    }
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(normalize(text, NormalForm::kNfd), ordered);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(ByteAlphabet, IsOneToOne) {
  std::string characters;
  std::string bytes;
  for (int b = 0; b < 256; ++b) {
    bytes += static_cast<char>(b);
  }
  append_as_characters(characters, bytes);
  EXPECT_EQ(well_formed_prefix(characters), characters.size());
  EXPECT_EQ(bytes_of_characters(characters), bytes);
  EXPECT_EQ(byte_character(' '), "\u0120");
  EXPECT_EQ(byte_character('\n'), "\u010a");
  EXPECT_EQ(byte_character(0xad), "\u0143");
  EXPECT_EQ(bytes_of_characters("a b"), std::nullopt);
  EXPECT_EQ(bytes_of_characters("\u0144"), std::nullopt);
  EXPECT_EQ(bytes_of_characters("a\xc4"), std::nullopt);
}

std::vector<std::string> matches(const Pattern& pattern, const std::string& text) {
  std::vector<std::string> out;
  pattern.for_each(text, [&](size_t begin, size_t end, bool is_match) {
    if (is_match) {
      out.push_back(text.substr(begin, end - begin));
    }
  });
  return out;
}

TEST(Pattern, CategoriesKnowNewerCharacters) {
  // U+31350 is a letter since Unicode 15, U+10D40 a digit and U+11F5A a mark since 16.
  const std::string text = "a\U00031350 \U00010d40 \U00011f5a";
  using List = std::vector<std::string>;
  EXPECT_EQ(matches(Pattern::regex("\\p{L}+", "f"), text), (List{"a\U00031350"}));
  EXPECT_EQ(matches(Pattern::regex("\\p{Lo}", "f"), text), (List{"\U00031350"}));
  EXPECT_EQ(matches(Pattern::regex("[\\p{Nd}\\p{Letter}]", "f"), text), (List{"a", "\U00031350", "\U00010d40"}));
  EXPECT_EQ(matches(Pattern::regex("[^\\s\\p{L}\\p{N}]", "f"), text), (List{"\U00011f5a"}));
  EXPECT_EQ(matches(Pattern::regex("\\P{L}", "f"), "a\U00031350b!"), (List{"!"}));
  EXPECT_EQ(matches(Pattern::regex("\\p{^L}", "f"), "a\U00031350b!"), (List{"!"}));
  EXPECT_EQ(matches(Pattern::regex("\\p{Greek}", "f"), "a\u03b1"), (List{"\u03b1"}));
  EXPECT_EQ(matches(Pattern::regex("\\\\p{2}", "f"), "\\pp"), (List{"\\pp"}));
}

TEST(Pattern, EmptyMatchesDoNotFollowAMatch) {
  using List = std::vector<std::string>;
  EXPECT_EQ(matches(Pattern::regex("x*", "f"), "axxb"), (List{"", "xx", ""}));
  EXPECT_EQ(matches(Pattern::regex("(?=b)", "f"), "abb"), (List{"", ""}));
}

TEST(Pattern, BrokenOnesNameTheFileAndTheFault) {
  for (const char* source : {"(", "[a", "a{2,1}(", "(?<n", "\\p{Nonsense}", "*a("}) {
    try {
      Pattern::regex(source, "tokenizer.json");
      FAIL() << source;
    } catch (const ParseError& e) {
      EXPECT_EQ(e.file(), "tokenizer.json");
      EXPECT_NE(std::string(e.what()).find("no valid regular expression"), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(Pattern::regex(std::string(70'000, 'a'), "f"), ParseError);
}

TEST(Pattern, OneThatBacktracksWithoutEndIsAnErrorAndNoHang) {
  const Pattern pattern = Pattern::regex("(a|a|aa)*(a|aa)*(a|aa)*$", "f");
  EXPECT_THROW(matches(pattern, std::string(60, 'a') + "b"), Error);
}

}  // namespace
}  // namespace mamba::text
