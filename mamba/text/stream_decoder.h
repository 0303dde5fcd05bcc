// Text while it is being generated.
#pragma once

#include <cstdint>
#include <string>

#include "mamba/text/decoder.h"
#include "mamba/text/tokenizer.h"

namespace mamba::text {

// What becomes of bytes that are no well-formed UTF-8: one U+FFFD for each maximal subpart, or the bytes themselves.
enum class IllFormed { kReplace, kKeep };

// Gives out text as ids come in, never a part of a character: bytes that may begin one are held back until it is
// complete or cannot become so any more. All results put together equal Tokenizer::decode_utf8 of all the ids
// (kReplace) or Tokenizer::decode (kKeep). Ids without a token give nothing. Not thread-safe; `tokenizer` must outlive
// this object.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, IllFormed ill_formed = IllFormed::kReplace,
                         bool skip_special_tokens = false);

  std::string push(int32_t id);

  // What was held back, also a character that never was completed. The decoder may then be used for another text.
  std::string finish();

 private:
  std::string take(bool at_end);

  const Tokenizer* tokenizer_;
  Decoder::Stream stream_;
  IllFormed ill_formed_;
  bool skip_special_tokens_;
  std::string pending_;
};

}  // namespace mamba::text
