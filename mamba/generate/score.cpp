#include "mamba/generate/score.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/generate/sampler.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

// Positions whose logits are held at once: 128 rows of 50,280 are 26 MB.
constexpr int kRows = 128;

}  // namespace

Score score(const models::MambaLM& model, std::span<const int32_t> tokens, const OnLogits& on_logits) {
  model.check_tokens(tokens);
  if (tokens.size() < 2) {
    throw UsageError("scoring needs at least two tokens: the first one has nothing before it");
  }
  const auto count = static_cast<int>(tokens.size());
  const int64_t vocab = model.config().vocab_size;
  Score result;
  result.logprobs.resize(tokens.size() - 1);
  models::State state = model.initial_state();
  const mx::array input(tokens.begin(), {1, count}, mx::int32);
  model.for_each_chunk(input, state, {}, [&](int first, const mx::array& h, const std::optional<models::Spans>&) {
    for (int row = 0; row < h.shape(1); row += kRows) {
      const int end = std::min(h.shape(1), row + kRows);
      mx::array logits = model.logits(mx::slice(h, {0, row, 0}, {1, end, h.shape(2)}));
      mx::eval(logits);
      const std::span<const float> rows(logits.data<float>(), logits.size());
      const int64_t position = first + row;
      parallel_for(end - row, 4, [&](int64_t begin, int64_t last) {
        for (int64_t i = begin; i < last; ++i) {
          const int64_t next = position + i + 1;
          if (next < count) {
            result.logprobs[static_cast<size_t>(next - 1)] =
                log_probability(rows.subspan(static_cast<size_t>(i * vocab), static_cast<size_t>(vocab)),
                                tokens[static_cast<size_t>(next)]);
          }
        }
      });
      if (on_logits) {
        on_logits(position, end - row, rows);
      }
    }
  });
  double sum = 0;
  for (const double logprob : result.logprobs) {
    sum -= logprob;
  }
  result.mean_loss = sum / static_cast<double>(result.logprobs.size());
  result.perplexity = std::exp(result.mean_loss);
  return result;
}

}  // namespace mamba::generate
