#include "mamba/generate/benchmark.h"

#include <mlx/ops.h>

#include <algorithm>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/mix_bits.h"
#include "mamba/generate/batch.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

// Multiply-adds of one token in all blocks.
double products_of_blocks(const models::Config& c) {
  const double d = c.d_model;
  const double inner = c.d_inner;
  const double rank = c.dt_rank;
  return c.n_layer * (3 * d * inner + inner * (rank + 2.0 * c.d_state) + rank * inner);
}

double products_of_logits(const models::Config& c) {
  return static_cast<double>(c.d_model) * c.vocab_size;
}

struct Pass {
  double prompt_seconds = 0;
  double generation_seconds = 0;
};

Pass run_pass(const models::MambaLM& model, int64_t prompt_tokens, int64_t generated, int sequences,
              const std::function<void()>& before_step) {
  Batch batch(model, nullptr, {}, sequences);
  for (int s = 0; s < sequences; ++s) {
    Request request;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.max_tokens = static_cast<int>(generated) + 1;  // the last one is chosen, and not worked on
    const auto vocabulary = static_cast<uint64_t>(model.config().vocab_size);
    for (int64_t i = 0; i < std::max<int64_t>(prompt_tokens, 1); ++i) {
      const uint64_t counter = static_cast<uint64_t>(s) << 32 | static_cast<uint64_t>(i);
      request.prompt.push_back(static_cast<int32_t>(mix_bits(counter) % vocabulary));
    }
    batch.add(std::move(request));
  }
  batch.take_in();
  for (int64_t i = 0; i < generated; ++i) {
    if (before_step) {
      before_step();
    }
    batch.step();
  }
  return {batch.timings().prompt_seconds, batch.timings().generation_seconds};
}

}  // namespace

Speeds measure_speeds(const models::MambaLM& model, const BenchmarkSettings& settings, const BenchmarkHooks& hooks) {
  const auto [prompt, generated, sequences, repeats] = settings;
  check(prompt >= 0 && generated >= 0 && sequences >= 1 && repeats >= 1,
        "[benchmark] {} prompt tokens, {} generated, {} sequences, {} repeats: the first two must be 0 or more, the "
        "others 1 or more",
        prompt, generated, sequences, repeats);
  run_pass(model, std::min<int64_t>(prompt, models::MambaLM::kChunk), std::min<int64_t>(generated, 4), sequences,
           hooks.before_step);
  Speeds speeds;
  for (int i = 0; i < repeats; ++i) {
    const Pass pass = run_pass(model, prompt, generated, sequences, hooks.before_step);
    if (prompt > 0) {
      speeds.prompt.push_back(static_cast<double>(prompt * sequences) / pass.prompt_seconds);
    }
    if (generated > 0) {
      speeds.generation.push_back(static_cast<double>(generated * sequences) / pass.generation_seconds);
    }
    if (hooks.after_pass) {
      hooks.after_pass();
    }
  }
  return speeds;
}

uint64_t weight_bytes(const models::MambaLM& model) {
  models::MambaLM copy = model;
  uint64_t bytes = 0;
  // Without its matrices, which to visit may take work.
  copy.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
    // Of embeddings that are not the output's weights a step reads one row.
    if (model.config().tie_embeddings || !path.ends_with("embeddings")) {
      bytes += matrix.bytes();
    }
    matrix.weight = mx::zeros({0, 0});
    matrix.quantized.reset();
    matrix.packed.reset();
  });
  copy.visit("", [&](const std::string&, mx::array& value) { bytes += value.nbytes(); });
  return bytes;
}

Work prompt_work(const models::MambaLM& model, const BenchmarkSettings& settings) {
  const int64_t chunks = (settings.prompt_tokens + models::MambaLM::kChunk - 1) / models::MambaLM::kChunk;
  const double tokens = static_cast<double>(settings.prompt_tokens) * settings.sequences;
  return {static_cast<double>(chunks) * static_cast<double>(weight_bytes(model)),
          2 * (tokens * products_of_blocks(model.config()) + settings.sequences * products_of_logits(model.config()))};
}

Work generation_work(const models::MambaLM& model, const BenchmarkSettings& settings) {
  const auto steps = static_cast<double>(settings.generated_tokens);
  return {steps * static_cast<double>(weight_bytes(model)),
          2 * steps * settings.sequences * (products_of_blocks(model.config()) + products_of_logits(model.config()))};
}

}  // namespace mamba::generate
