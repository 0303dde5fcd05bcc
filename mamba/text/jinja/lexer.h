// A template's text as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mamba::text::jinja {

enum class TokenKind {
  kText,        // outside of any tag
  kBlockBegin,  // {%
  kBlockEnd,
  kOutputBegin,  // {{
  kOutputEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;  // a string's value
  int line;
};

// As Jinja does with trim_blocks and lstrip_blocks, which is how transformers sets it: a newline behind a block or a
// comment and blanks before it, where nothing else stands on the line, belong to it; "-" takes all blanks on its side,
// "+" none. All line ends become \n, and one at the very end is dropped. The last token is kEnd. Throws ParseError with
// `name` and the line.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

// Throws ParseError "<name>:<line>: message".
[[noreturn]] void fail_at(const std::string& name, int line, const std::string& message);

}  // namespace mamba::text::jinja
