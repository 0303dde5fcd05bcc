// What stands beside a tokenizer.json: which special tokens begin and end a text, and the chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "mamba/text/tokenizer.h"

namespace mamba::text {

struct TokenizerConfig {
  std::string bos_token;  // empty: none
  std::string eos_token;
  std::string chat_template;  // Jinja; empty: none

  // Reads tokenizer_config.json, special_tokens_map.json (for tokens that the first does not name) and
  // chat_template.jinja (which wins) in the folder of `tokenizer`; each may be absent. Throws ParseError.
  static TokenizerConfig beside(const std::filesystem::path& tokenizer);
};

// The token that ends a document: eos_token; where none is named, the first of <|endoftext|>, <|end_of_text|>, </s>
// and <eos> that the tokenizer has. Throws Error when the named token is not in the vocabulary.
std::optional<int32_t> end_of_text(const Tokenizer& tokenizer, const TokenizerConfig& config);

}  // namespace mamba::text
