// The "added_tokens" of a tokenizer.json: found in the text before anything else happens to it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/text/bpe.h"
#include "mamba/text/normalizer.h"

namespace mamba::text {

// Finds tokens in text: at each place the longest, and then on behind it.
class TokenFinder {
 public:
  void add(std::string_view token, int32_t id);  // an empty token is ignored; the last of two equal ones counts
  bool empty() const { return next_.empty(); }

  // The token that starts at text[at], as its id and length.
  struct Found {
    int32_t id;
    size_t size;
  };
  std::optional<Found> at(std::string_view text, size_t at) const;

 private:
  std::unordered_map<uint64_t, uint32_t> next_;  // node << 8 | byte
  std::vector<int32_t> ids_{-1};                 // by node; -1: no token ends here
  bool starts_[256] = {};
};

class AddedTokens {
 public:
  // As tokenizers does it, a token that the model knows keeps the model's id, and any other gets the next free one;
  // when the file says something else, warn_once() tells.
  static AddedTokens from_json(const JsonObject& tokenizer, const Bpe& model, const Normalizer& normalizer);

  std::optional<int32_t> id(std::string_view token) const;
  // What the file calls the token, and what the decoder gets: its normalized form where it is matched in that.
  const std::string* content(int32_t id) const;
  const std::string* decoded(int32_t id) const;
  bool is_special(std::string_view token) const { return special_.contains(std::string(token)); }
  const TokenIds& ids() const { return ids_; }

  // Calls visit(begin, end, id) for consecutive stretches of `text`, id -1 where it is plain text. `normalized` picks
  // the tokens that are looked for in normalized text, else those looked for in the text as given. Stretches of plain
  // text are not empty. Requires well-formed UTF-8.
  using Visit = std::function<void(size_t begin, size_t end, int32_t id)>;
  void split(std::string_view text, bool normalized, const Visit& visit) const;

 private:
  struct Token {
    std::string content;
    std::string decoded;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
    bool normalized = false;
  };

  TokenIds ids_;
  std::unordered_map<int32_t, Token> tokens_;
  std::unordered_set<std::string> special_;
  TokenFinder raw_finder_;
  TokenFinder normalized_finder_;
};

}  // namespace mamba::text
