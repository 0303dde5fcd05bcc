#include "mamba/generate/generator.h"

#include <utility>

#include "mamba/base/error.h"
#include "mamba/generate/batch.h"

namespace mamba::generate {

std::vector<Result> generate(const models::MambaLM& model, const text::Tokenizer* tokenizer,
                             const std::vector<Request>& requests, const Callbacks& callbacks, Timings* timings,
                             int max_batch, const MakeTokenSource& make_source) {
  check(max_batch >= 1, "[generate] max_batch must be at least 1 but is {}", max_batch);
  for (const Request& request : requests) {
    check_request(model, tokenizer, request);
  }
  std::vector<Result> results(requests.size());
  Callbacks kept = callbacks;
  kept.on_result = [&](size_t index, const Result& result) {
    results[index] = result;
    if (callbacks.on_result) {
      callbacks.on_result(index, results[index]);
    }
  };
  Batch batch(model, tokenizer, std::move(kept), max_batch, make_source);
  for (const Request& request : requests) {
    batch.add(request);
  }
  while (batch.step()) {
  }
  if (timings != nullptr) {
    *timings = batch.timings();
  }
  return results;
}

}  // namespace mamba::generate
