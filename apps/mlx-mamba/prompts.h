// What a model is to read: texts and token ids from options, files and standard input.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/text/tokenizer.h"

namespace mamba::cli {

struct Prompt {
  std::string where;  // "--prompt", "prompts.txt, line 3": for messages
  std::string text;
  std::optional<std::vector<int32_t>> tokens;  // instead of text
};

// "1,2,3", blanks allowed around the numbers. Throws UsageError naming `where` for anything else.
std::vector<int32_t> parse_ids(std::string_view text, const std::string& where);
std::string join_ids(const std::vector<int32_t>& ids);

// The file's exact bytes; "-" is standard input.
std::string read_text(const std::string& path);

// One prompt a line, which ends in \n or \r\n; when the name ends in .jsonl each line is a JSON string or an object
// with "prompt" or "tokens". Throws UsageError for a file without prompts and for an empty one among them, ParseError
// for bad JSON.
std::vector<Prompt> read_batch(const std::string& path);

// The prompt's ids. Throws UsageError when text is given but `tokenizer` is null, and when there is nothing to encode.
// `add_special_tokens`: as in Tokenizer::encode.
std::vector<int32_t> encode(const Prompt& prompt, const text::Tokenizer* tokenizer, bool add_special_tokens = true);

}  // namespace mamba::cli
