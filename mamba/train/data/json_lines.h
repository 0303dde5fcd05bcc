// One line of a .jsonl file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mamba/base/json.h"

namespace mamba::train {

struct Record {
  std::string text;  // a document, where there is no prompt and no message
  bool is_example = false;
  std::string prompt;
  std::string completion;
  nlohmann::ordered_json messages;  // a list of objects with "role" and "content"; null where there is none
  nlohmann::ordered_json tools;     // what the line gives to the template besides, null where there is none
};

// Understands an object with a string "text", strings "prompt" and "completion", or a list "messages" of objects with a
// string "role" and a string "content" (null or absent is an empty text). Other fields are ignored, a second of these
// kinds is refused. Nothing for a line of blanks. Throws ParseError naming `place`, which reads "file:line".
std::optional<Record> parse_record(std::string_view line, const std::string& place);

}  // namespace mamba::train
