// The parts of a Tokenizer; for this folder only.
#pragma once

#include "mamba/text/added_tokens.h"
#include "mamba/text/bpe.h"
#include "mamba/text/decoder.h"
#include "mamba/text/normalizer.h"
#include "mamba/text/post_processor.h"
#include "mamba/text/pre_tokenizer.h"
#include "mamba/text/tokenizer.h"

namespace mamba::text {

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe model;
  AddedTokens added;
  PostProcessor post_processor;
  Decoder decoder;
  int64_t vocab_size = 0;
  int32_t max_id = -1;

  // What the decoder gets for `id`; null for an id without token and for a special one that is to be skipped.
  const std::string* text_of(int32_t id, bool skip_special_tokens) const;
};

}  // namespace mamba::text
