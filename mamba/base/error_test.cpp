#include "mamba/base/error.h"

#include <gtest/gtest.h>

namespace mamba {
namespace {

TEST(Error, CheckFormatsTheValues) {
  EXPECT_NO_THROW(check(true, "never {}", 1));
  try {
    check(false, "A must be {} but got {}", 16, 8);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "A must be 16 but got 8");
  }
}

TEST(Error, ParseErrorNamesFileAndOffset) {
  const ParseError at("model.safetensors", 17, "header is cut off");
  EXPECT_STREQ(at.what(), "model.safetensors: header is cut off (at byte 17)");
  EXPECT_EQ(at.offset(), 17);
  const ParseError whole("config.json", ParseError::kNoOffset, "field is missing");
  EXPECT_STREQ(whole.what(), "config.json: field is missing");
}

TEST(Error, QuoteIsOneSafeLine) {
  EXPECT_EQ(quote("plain"), "\"plain\"");
  EXPECT_EQ(quote("a\nb\x1b[31m\"\xff"), "\"a\\x0ab\\x1b[31m\\\"\\xff\"");
  EXPECT_EQ(quote("abcdef", 3), "\"abc...\"");
}

}  // namespace
}  // namespace mamba
