#include "mamba/base/json.h"

#include <gtest/gtest.h>

#include "mamba/base/error_testing.h"

namespace mamba {
namespace {

TEST(Json, SyntaxErrorsCarryTheOffsetInTheFile) {
  try {
    parse_json("{\"a\": 1,, }", "f.json", 100);
    FAIL();
  } catch (const ParseError& e) {
    EXPECT_EQ(e.file(), "f.json");
    EXPECT_EQ(e.offset(), 108);
  }
}

TEST(Json, DeepNestingAndBadUtf8AreRefused) {
  EXPECT_THROW(parse_json(std::string(100'000, '['), "f"), ParseError);
  EXPECT_THROW(parse_json("{\"a\": \"\xff\"}", "f"), ParseError);
  EXPECT_THROW(parse_json("", "f"), ParseError);
  EXPECT_THROW(parse_json("[1e999]", "f"), ParseError);
  EXPECT_NO_THROW(parse_json("[\"" + std::string(1000, '[') + "\\\"[\"]", "f"));
}

TEST(JsonObject, TypedFieldsWithRanges) {
  const Json json =
      parse_json(R"({"n": 768, "f": 768.0, "big": 1e300, "s": "x", "b": true, "null": null, "o": {"k": -1}})", "c");
  const JsonObject object(json, "config.json");
  EXPECT_EQ(object.integer("n", 1, 1000), 768);
  EXPECT_EQ(object.integer("f", 1, 1000), 768);
  EXPECT_EQ(object.integer_or("null", 5, 1, 1000), 5);
  EXPECT_EQ(object.string("s"), "x");
  EXPECT_TRUE(object.boolean_or("b", false));
  EXPECT_DOUBLE_EQ(object.number_or("n", 0, 0, 1e3), 768);
  EXPECT_EQ(message_of<ParseError>([&] { object.integer("n", 1, 100); }),
            "config.json: field \"n\" must be an integer from 1 to 100 but is 768");
  EXPECT_EQ(message_of<ParseError>([&] { object.integer("s", 1, 100); }),
            "config.json: field \"s\" must be an integer from 1 to 100 but is \"x\"");
  EXPECT_EQ(message_of<ParseError>([&] { object.integer("big", 1, 100); }),
            "config.json: field \"big\" must be an integer from 1 to 100 but is 1e+300");
  EXPECT_EQ(message_of<ParseError>([&] { object.integer("absent", 1, 100); }),
            "config.json: field \"absent\" is missing");
  EXPECT_EQ(message_of<ParseError>([&] { object.object("o").integer("k", 0, 9); }),
            "config.json: field \"o.k\" must be an integer from 0 to 9 but is -1");
  EXPECT_EQ(message_of<ParseError>([&] { JsonObject(json["n"], "config.json"); }),
            "config.json: must hold a JSON object");
}

}  // namespace
}  // namespace mamba
