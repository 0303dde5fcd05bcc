// How probable a model finds a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "mamba/models/mamba.h"

namespace mamba::generate {

struct Score {
  std::vector<double> logprobs;  // of tokens[i] given those before it, for i = 1..n-1: one less than tokens
  double mean_loss = 0;          // -mean(logprobs), in nats per token
  double perplexity = 0;         // exp(mean_loss)
};

// Rows of logits in order: `rows` (count, vocab) float32, row-major, for positions [first, first + count).
using OnLogits = std::function<void(int64_t first, int64_t count, std::span<const float> rows)>;

// Works in chunks: memory does not grow with the text. Throws UsageError for fewer than two tokens and for ids outside
// the vocabulary. `on_logits` also gets the last token's row.
Score score(const models::MambaLM& model, std::span<const int32_t> tokens, const OnLogits& on_logits = {});

}  // namespace mamba::generate
