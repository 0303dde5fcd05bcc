// Text files into a cache of tokens.
#pragma once

#include <filesystem>
#include <span>

#include "mamba/base/progress.h"
#include "mamba/text/bpe.h"
#include "mamba/train/data/sources.h"
#include "mamba/train/data/token_cache.h"

namespace mamba::train {

// The tokens of `sources` (text and JSON lines), from `folder` where an earlier call left them, else made now and left
// there, on all cores and in memory that does not grow with the sources. The key is what the tokens depend on: the
// files' paths, sizes and times of change, the tokenizer and what stands beside it, and the dropout. A damaged cache is
// made anew; processes that want the same one wait for each other. Throws UsageError without a tokenizer, ParseError
// with file and place, and Error when a file changes while it is read. With `dropout`, plain texts are cut at random;
// examples are not.
TokenCache tokenize(std::span<const Source> sources, const std::filesystem::path& tokenizer,
                    const std::filesystem::path& folder, const ProgressFn& progress,
                    const text::MergeDropout& dropout = {});

}  // namespace mamba::train
