// Where the tokens of sequences that run together come from: the model, one step for all rows, and the choice of a
// token for each.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "mamba/generate/sampler.h"
#include "mamba/models/mamba.h"

namespace mamba::generate {

// A sequence that joins, after its prompt.
struct NewRow {
  SamplingParams sampling;
  std::vector<int32_t> history;  // for the repetition penalty
  int max_tokens = 0;
  bool keeps_state = false;  // state_of() will be asked for
};

struct ChosenToken {
  int32_t id;
  double logprob;  // under the model's own distribution
};

class TokenSource {
 public:
  virtual ~TokenSource() = default;

  // Rows behind those there are. `state` and `logits` (rows, vocab) float32: after what the model has read of them.
  virtual void join(const models::State& state, const mlx::core::array& logits, std::vector<NewRow> rows) = 0;

  // One more token for each row, in order.
  virtual std::vector<ChosenToken> next() = 0;

  // Keeps these rows, in this order, and lets go of the others.
  virtual void keep(const std::vector<int>& rows) = 0;

  // The state after all tokens of a row, and the logits (vocab) that follow.
  virtual std::pair<models::State, mlx::core::array> state_of(int row) = 0;
};

using MakeTokenSource = std::function<std::unique_ptr<TokenSource>(const models::MambaLM& model)>;

// Samples on the host, as sampler.h does it.
std::unique_ptr<TokenSource> sample_on_host(const models::MambaLM& model);

// Samples where the model runs (ops/choose_token) and is one step ahead: the device works on the next token while the
// host is handed this one. A row that ends has been worked on once too often, which nobody sees. The same seed gives
// the same tokens, though not those of sample_on_host(), which draws in another order.
std::unique_ptr<TokenSource> sample_on_device(const models::MambaLM& model);

}  // namespace mamba::generate
