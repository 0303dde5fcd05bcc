// How fast a model reads prompts and writes text.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "mamba/models/mamba.h"

namespace mamba::generate {

struct BenchmarkSettings {
  int64_t prompt_tokens = 512;     // of each sequence; 0: one token, not measured
  int64_t generated_tokens = 128;  // of each sequence; 0: not measured
  int sequences = 1;
  int repeats = 5;
};

// Tokens of all sequences together a second, one figure for each repeat.
struct Speeds {
  std::vector<double> prompt;
  std::vector<double> generation;
};

// Called while it runs, outside what is timed. What they throw ends it.
struct BenchmarkHooks {
  std::function<void()> before_step = {};
  std::function<void()> after_pass = {};  // that counts
};

// Runs the sequences as generate() would: random prompts, greedy choice, one reading of the weights a step for all. A
// short pass before the first does not count.
Speeds measure_speeds(const models::MambaLM& model, const BenchmarkSettings& settings,
                      const BenchmarkHooks& hooks = {});

// What has to be done at least, whoever does it.
struct Work {
  double bytes = 0;       // to read
  double operations = 0;  // of products; a multiply-add is two
};

// The weights once for each chunk of a prompt, and the products of all its tokens; logits of the last token alone.
Work prompt_work(const models::MambaLM& model, const BenchmarkSettings& settings);
// The weights once for each step, and the products of its tokens.
Work generation_work(const models::MambaLM& model, const BenchmarkSettings& settings);

// Bytes of the weights that a step of generation reads.
uint64_t weight_bytes(const models::MambaLM& model);

}  // namespace mamba::generate
