#include "mamba/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "mamba/base/error.h"
#include "mamba/ops/token_scores/token_scores.h"

namespace mamba::generate {
namespace {

struct Candidate {
  int32_t token;
  double logit;
  double probability;
};

void require(bool condition, const char* name, const char* range, double value) {
  if (!condition) {
    throw UsageError(fmt::format("{} must be {} but is {}", name, range, value));
  }
}

// Each distinct token of the history once, however often it was seen.
void penalise(std::span<float> logits, std::span<const int32_t> history, float penalty) {
  std::vector<bool> seen(logits.size(), false);
  for (const int32_t token : history) {
    if (token >= 0 && static_cast<size_t>(token) < logits.size() && !seen[static_cast<size_t>(token)]) {
      seen[static_cast<size_t>(token)] = true;
      float& logit = logits[static_cast<size_t>(token)];
      logit = logit < 0 ? logit * penalty : logit / penalty;
    }
  }
}

bool less_probable(const Candidate& a, const Candidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}

bool more_probable(const Candidate& a, const Candidate& b) {
  return less_probable(b, a);
}

void keep_top_k(std::vector<Candidate>& candidates, int k) {
  if (k <= 0 || static_cast<size_t>(k) >= candidates.size()) {
    return;
  }
  std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(), more_probable);
  const double threshold = candidates[static_cast<size_t>(k - 1)].logit;
  std::erase_if(candidates, [&](const Candidate& c) { return c.logit < threshold; });  // ties of the k-th stay
}

void set_probabilities(std::vector<Candidate>& candidates) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const Candidate& c : candidates) {
    largest = std::max(largest, c.logit);
  }
  double sum = 0;
  for (Candidate& c : candidates) {
    c.probability = std::exp(c.logit - largest);
    sum += c.probability;
  }
  for (Candidate& c : candidates) {
    c.probability /= sum;
  }
}

// Keeps a candidate while those more probable hold less than `p` together.
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  // n candidates of at most q hold n q: where that is no more than 1 - p, none of them is kept. This spares the heap
  // most of a large vocabulary.
  const double negligible = (1.0 - p) / static_cast<double>(candidates.size());
  std::erase_if(candidates, [&](const Candidate& c) { return c.probability < negligible; });
  std::make_heap(candidates.begin(), candidates.end(), less_probable);
  auto kept = candidates.end();
  double before = 0;
  while (kept != candidates.begin() && (before < p || kept == candidates.end())) {
    std::pop_heap(candidates.begin(), kept, less_probable);
    --kept;
    before += kept->probability;
  }
  candidates.erase(candidates.begin(), kept);
}

void keep_min_p(std::vector<Candidate>& candidates, double p) {
  double largest = 0;
  for (const Candidate& c : candidates) {
    largest = std::max(largest, c.probability);
  }
  std::erase_if(candidates, [&](const Candidate& c) { return c.probability < p * largest; });
}

}  // namespace

void SamplingParams::validate() const {
  require(temperature >= 0 && std::isfinite(temperature), "temperature", "0 or more", temperature);
  require(top_k >= 0, "top-k", "0 (all) or more", top_k);
  require(top_p > 0 && top_p <= 1, "top-p", "more than 0 and at most 1", top_p);
  require(min_p >= 0 && min_p <= 1, "min-p", "from 0 to 1", min_p);
  require(repetition_penalty > 0 && std::isfinite(repetition_penalty), "repetition-penalty", "more than 0",
          repetition_penalty);
}

Sampler::Sampler(const SamplingParams& params) : params_(params), random_(params.seed) {
  params.validate();
}

std::vector<std::pair<int32_t, double>> Sampler::distribution(std::span<const float> logits,
                                                              std::span<const int32_t> history) const {
  std::vector<float> scores(logits.begin(), logits.end());
  if (params_.repetition_penalty != 1.0f) {
    penalise(scores, history, params_.repetition_penalty);
  }
  if (params_.temperature == 0) {
    const auto best = std::max_element(scores.begin(), scores.end());
    return {{static_cast<int32_t>(best - scores.begin()), 1.0}};
  }
  std::vector<Candidate> candidates;
  candidates.reserve(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    candidates.push_back({static_cast<int32_t>(i), static_cast<double>(scores[i] / params_.temperature), 0});
  }
  keep_top_k(candidates, params_.top_k);
  set_probabilities(candidates);
  if (params_.top_p < 1) {
    keep_top_p(candidates, params_.top_p);
    set_probabilities(candidates);
  }
  if (params_.min_p > 0) {
    keep_min_p(candidates, params_.min_p);
    set_probabilities(candidates);
  }
  std::sort(candidates.begin(), candidates.end(), more_probable);
  std::vector<std::pair<int32_t, double>> out;
  out.reserve(candidates.size());
  for (const Candidate& c : candidates) {
    out.emplace_back(c.token, c.probability);
  }
  return out;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  if (params_.temperature == 0 && params_.repetition_penalty == 1.0f) {
    return static_cast<int32_t>(ops::largest_index(logits));
  }
  const auto kept = distribution(logits, history);
  if (params_.temperature == 0) {
    return kept.front().first;
  }
  // 53 random bits: the same number on every platform, which std::uniform_real_distribution does not promise.
  double left = static_cast<double>(random_() >> 11) * 0x1.0p-53;
  for (const auto& [token, probability] : kept) {
    left -= probability;
    if (left < 0) {
      return token;
    }
  }
  return kept.back().first;
}

double log_probability(std::span<const float> logits, int32_t token) {
  return static_cast<double>(logits[static_cast<size_t>(token)]) - ops::log_sum_exp(logits);
}

}  // namespace mamba::generate
