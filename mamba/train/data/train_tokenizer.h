// A tokenizer of one's own from training data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mamba/base/progress.h"

namespace mamba::train {

// Learns a byte-level tokenizer of `vocab_size` tokens (mamba/text/bpe_trainer.h) from the text of `paths`, files and
// folders as Dataset::open takes them, and writes tokenizer.json and tokenizer_config.json into `directory`, which is
// made where it is missing. All texts of a .jsonl count: text, prompt, completion and the messages' contents. Returns
// the number of tokens, which is smaller than `vocab_size` where the text gives no more. Throws UsageError for a
// vocabulary of less than 257 tokens and for files that hold tokens already.
int64_t train_tokenizer(const std::vector<std::filesystem::path>& paths, int64_t vocab_size,
                        const std::filesystem::path& directory, const ProgressFn& progress = {});

}  // namespace mamba::train
