// Sequences that are continued together: one reading of the weights a step serves all of them. They join and leave
// between steps, and each gets exactly what it would get alone. What a server runs; for a list of requests that is
// known beforehand there is generate() in generator.h.
//
//   Batch batch(model, tokenizer, callbacks);
//   batch.add(request);
//   while (batch.step()) {
//     // more add() and cancel() as they come
//   }
#pragma once

#include <cstddef>
#include <memory>

#include "mamba/generate/request.h"
#include "mamba/generate/token_source.h"
#include "mamba/models/mamba.h"
#include "mamba/text/tokenizer.h"

namespace mamba::generate {

// Not thread-safe. `model` and `tokenizer` must outlive it.
class Batch {
 public:
  // At most `max_sequences` run at a time; the others wait in the order they came. `tokenizer` may be null: then there
  // is no text, and stop strings are refused. `make_source`: who samples; by default the device where the model runs on
  // a GPU, else the host.
  Batch(const models::MambaLM& model, const text::Tokenizer* tokenizer, Callbacks callbacks = {},
        int max_sequences = 64, const MakeTokenSource& make_source = {});
  ~Batch();
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;

  // The request waits for the next step. Returns its index, 0, 1, 2, ..., which callbacks are called with.
  // Throws UsageError for an empty prompt, ids outside the vocabulary and bad sampling parameters.
  size_t add(Request request);

  // The request leaves with the next step, its result so far with the reason "cancelled". Nothing happens when it is
  // complete already. May be called from a callback.
  void cancel(size_t index);

  // Works on the prompts of waiting requests while there is room. step() does so first.
  void take_in();

  // A token for every running sequence; those that are done leave, and the model runs once for all that stay. False
  // when nobody is left, running or waiting.
  bool step();

  size_t running() const;
  size_t waiting() const;
  const Timings& timings() const;  // of all steps so far

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// What add() throws, for a request that is added later.
void check_request(const models::MambaLM& model, const text::Tokenizer* tokenizer, const Request& request);

}  // namespace mamba::generate
