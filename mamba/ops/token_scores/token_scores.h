// What choosing a token needs to know of one row of logits in memory, with vectors: plain C++ took longer for it than
// for many a layer. On all threads; the same result on every run, however many they are.
#pragma once

#include <cstdint>
#include <span>

namespace mamba::ops {

// The lowest index among the largest of the logits, of which there is at least one; NaN counts as less than anything.
int64_t largest_index(std::span<const float> logits);

// log(sum of e^logit), to 1e-6. -infinity when all logits are.
double log_sum_exp(std::span<const float> logits);

}  // namespace mamba::ops
