// From logits to a token. The steps, their order and their edge cases are those of transformers' generate():
// repetition penalty; then, when sampling, temperature, top-k, top-p, min-p; then one draw.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace mamba::generate {

struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy, the lowest id among equal largest logits
  int top_k = 0;                    // keep the k largest; 0: all
  float top_p = 1.0f;               // keep the smallest set with at least this probability; 1: all
  float min_p = 0.0f;               // keep what has at least this share of the largest probability; 0: all
  float repetition_penalty = 1.0f;  // Keskar et al. 2019: logits of tokens seen are divided (positive) or multiplied
  uint64_t seed = 0;

  // Throws UsageError naming the option and its range.
  void validate() const;
};

class Sampler {
 public:
  explicit Sampler(const SamplingParams& params);

  // `history`: prompt and generated tokens so far. `logits` (vocab) is not changed.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

  // The distribution that sample() draws from: (token, probability) of what is kept, most probable first.
  std::vector<std::pair<int32_t, double>> distribution(std::span<const float> logits,
                                                       std::span<const int32_t> history) const;

 private:
  SamplingParams params_;
  std::mt19937_64 random_;
};

// log(softmax(logits)[token]), to 1e-6.
double log_probability(std::span<const float> logits, int32_t token);

}  // namespace mamba::generate
