// Documents and examples as token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "mamba/text/chat_template.h"
#include "mamba/text/tokenizer.h"

namespace mamba::train {

// The tokens of an example; mask 1 where a token is to be learnt.
struct EncodedExample {
  std::vector<int32_t> ids;
  std::vector<uint8_t> mask;
};

// Immutable and thread-safe.
class DocumentEncoder {
 public:
  // `end`: the token that ends each document and each answer; none: nothing is appended.
  DocumentEncoder(const text::Tokenizer& tokenizer, std::optional<int32_t> end);

  std::optional<int32_t> end() const { return end_; }
  // What the tokenizer puts in front of a text: nothing for most, <s> for some. What it would put behind is left out,
  // since `end` comes there.
  const std::vector<int32_t>& prefix() const { return prefix_; }

  std::vector<int32_t> encode(std::string_view text) const { return tokenizer_.encode(text, false); }
  std::vector<int32_t> encode(std::string_view text, const text::MergeDropout& dropout) const {
    return dropout.rate > 0 ? tokenizer_.encode_with_dropout(text, dropout) : encode(text);
  }

  // Prompt and completion are encoded apart, as a model meets them later.
  EncodedExample completion(std::string_view prompt, std::string_view completion) const;

  // A conversation as `chat` writes it; the assistant's answers are learnt, each with the token that ends it
  // (ChatTemplate::render_with_answers). Text and answers are encoded apart, as a model meets them later. Nothing is
  // put around them: that is the template's business.
  EncodedExample conversation(const text::ChatTemplate& chat, const nlohmann::ordered_json& messages,
                              const text::ChatOptions& options) const;

  // Where to cut `text`, as far behind as possible but not behind `limit`, so that the parts encode to what the whole
  // encodes to. Requires well-formed UTF-8 and 0 < limit < text.size(). Tries places where words end and compares what
  // stands around each; where none will do, cuts between two characters, and a word may become two.
  size_t cut(std::string_view text, size_t limit) const;

 private:
  bool can_cut(std::string_view text, size_t at) const;

  const text::Tokenizer& tokenizer_;
  std::optional<int32_t> end_;
  std::vector<int32_t> prefix_;
};

}  // namespace mamba::train
