// The "post_processor" of a tokenizer.json: the special tokens around a text.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/base/json.h"

namespace mamba::text {

class PostProcessor {
 public:
  // TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (which moves offsets only) and Sequence with at
  // most one that adds tokens; null and absent mean none. Throws ParseError that names any other type.
  static PostProcessor from_json(const JsonObject& tokenizer);

  // The ids of one text with what belongs around them.
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool add_special_tokens) const;

 private:
  struct Piece {
    bool is_text;
    std::vector<int32_t> ids;
  };

  void add(const JsonObject& value);
  void set_template(const JsonObject& value);

  std::vector<Piece> pieces_;  // empty: the text alone
};

}  // namespace mamba::text
