// A byte-pair tokenizer read from a tokenizer.json, equal id for id to Hugging Face's `tokenizers` package.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/text/bpe.h"

namespace mamba::text {

// Immutable after construction: any number of threads may use one. Movable; a moved-from object may only be assigned
// to or destroyed.
//
// Reads every tokenizer.json whose model is BPE, byte-level ones (GPT-NeoX, GPT-2, Llama 3, Qwen, ...) and those with
// byte fallback, old files included; the headers of the parts list the types they know. Any other type is refused by
// name. Sections "truncation" and "padding" are ignored, as transformers does unless told otherwise: a prompt is never
// cut in silence. Dropout, which is for training, is ignored too.
class Tokenizer {
 public:
  // Throw ParseError (one line with the file's name) on a broken or unsupported file, Error when it cannot be read.
  static Tokenizer from_file(const std::filesystem::path& path);
  static Tokenizer from_json_text(std::string_view text, const std::string& file_name);

  Tokenizer(Tokenizer&& other) noexcept;
  Tokenizer& operator=(Tokenizer&& other) noexcept;
  ~Tokenizer();

  // Ids of `text`, special tokens written inside it included. `add_special_tokens` says whether the post-processor
  // adds what belongs around a text. Ill-formed UTF-8 is read as Python's bytes.decode("utf-8", "replace") reads it:
  // one U+FFFD for each maximal subpart. Throws Error when a pattern of the file takes too many steps on this text.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;

  // The same text cut into tokens at random (bpe.h), for training; no special tokens are added.
  std::vector<int32_t> encode_with_dropout(std::string_view text, const MergeDropout& dropout) const;

  // The exact bytes that `ids` stand for, which need not be well-formed UTF-8 where they end inside a character. For
  // a text that encode() did not normalize, decode(encode(text, false)) == text. Ids without a token, such as those
  // that pad a model's vocabulary, give nothing; check_ids() is for ids that somebody typed.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  // The same as well-formed UTF-8: each maximal ill-formed subpart becomes one U+FFFD. This is what Hugging Face's
  // decode returns, with one difference: with a ByteFallback decoder that gives one U+FFFD for every byte of a run of
  // byte tokens with a fault anywhere in it.
  std::string decode_utf8(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  // Throws UsageError naming the first id that has no token.
  void check_ids(std::span<const int32_t> ids) const;

  int64_t vocab_size() const;  // distinct tokens, added ones included
  int32_t max_id() const;      // the largest id in use; ids may have gaps
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::optional<std::string> id_to_token(int32_t id) const;  // as the file writes it: "Ġthe"
  bool is_special(int32_t id) const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::vector<int32_t> ids_of(std::string_view text, const MergeDropout& dropout) const;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace mamba::text
