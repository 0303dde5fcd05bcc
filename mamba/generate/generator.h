// Continues prompts, one or many at a time, and streams what it writes. Where requests come while others run, see
// batch.h.
#pragma once

#include <vector>

#include "mamba/generate/request.h"
#include "mamba/generate/token_source.h"
#include "mamba/models/mamba.h"
#include "mamba/text/tokenizer.h"

namespace mamba::generate {

// Runs all requests and returns their results in order; each is exactly what the request would give alone. At most
// `max_batch` run at a time, and the weights are read once a step for all of these; a finished request makes room for
// the next. `tokenizer` may be null: then there is no text, and stop strings are refused.
// `make_source` as in batch.h.
// Throws UsageError for empty prompts, ids outside the vocabulary and bad sampling parameters, before any work.
std::vector<Result> generate(const models::MambaLM& model, const text::Tokenizer* tokenizer,
                             const std::vector<Request>& requests, const Callbacks& callbacks = {},
                             Timings* timings = nullptr, int max_batch = 64, const MakeTokenSource& make_source = {});

}  // namespace mamba::generate
