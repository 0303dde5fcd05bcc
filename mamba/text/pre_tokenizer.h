// The "pre_tokenizer" of a tokenizer.json: splits normalized text into the words that the model then takes apart.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/json.h"

namespace mamba::text {

// Words as views into text that the caller keeps, or into `owned`.
struct Words {
  struct Word {
    std::string_view text;
    bool at_start;  // begins where the whole input begins
  };
  std::vector<Word> list;
  std::deque<std::string> owned;
};

// One step. Thread-safe after construction.
class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  // Requires and keeps well-formed UTF-8 and words that are not empty.
  virtual void apply(Words& words) const = 0;
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // the whole text is one word

  // ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, CharDelimiterSplit, FixedLength and
  // Sequence; null and absent mean none. Throws ParseError that names any other type.
  static PreTokenizer from_json(const JsonObject& tokenizer);

  // True when the last step writes bytes as characters of the byte alphabet. apply() leaves that out: the model takes
  // the bytes themselves.
  bool leaves_bytes() const { return leaves_bytes_; }

  void apply(Words& words) const;

 private:
  void add(const JsonObject& value);

  std::vector<std::shared_ptr<const PreTokenizerStep>> steps_;
  bool leaves_bytes_ = false;
};

}  // namespace mamba::text
