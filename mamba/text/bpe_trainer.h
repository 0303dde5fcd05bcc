// Learns a byte-level byte-pair tokenizer from text: the one that Hugging Face's `tokenizers` learns with BpeTrainer,
// a ByteLevel pre-tokenizer and its alphabet, merge for merge.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/progress.h"

namespace mamba::text {

struct BpeTrainerOptions {
  int64_t vocab_size = 0;                                       // at least 256 and one for each special token
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  // the first ends a text
};

// Not thread-safe. Results depend on the texts alone, not on threads or on how texts are handed over.
class BpeTrainer {
 public:
  // Throws UsageError for a vocabulary that is too small, or larger than 2^24.
  explicit BpeTrainer(BpeTrainerOptions options);
  ~BpeTrainer();
  BpeTrainer(const BpeTrainer&) = delete;
  BpeTrainer& operator=(const BpeTrainer&) = delete;

  // Counts the words (gpt2_words.h) of `texts` on all cores. Special tokens written in a text separate texts.
  // Ill-formed UTF-8 is read as Tokenizer::encode reads it.
  void count(std::span<const std::string> texts);

  // Merges, again and again, the pair of tokens that stands together most often; of several, the one with the lowest
  // ids. Ends early where every word is one token. Returns the text of a tokenizer.json.
  std::string train(const ProgressFn& progress = {}) const;

  // The tokenizer_config.json that belongs to it.
  std::string config() const;

 private:
  struct Counts;
  BpeTrainerOptions options_;
  std::unique_ptr<Counts> counts_;
};

}  // namespace mamba::text
