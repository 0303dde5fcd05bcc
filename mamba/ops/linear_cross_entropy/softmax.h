// Inside linear_cross_entropy: what happens to one token's logits, a block at a time.
#pragma once

#include <cstdint>

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_cross_entropy_detail {

// log sum exp of the logits seen so far is maximum + log(sum).
struct RunningSoftmax {
  float maximum;
  double sum;
};

constexpr RunningSoftmax kNothingSeen = {.maximum = -__builtin_inff(), .sum = 0};

// Takes in `count` > 0 more logits.
void accumulate(const float* logits, int64_t count, RunningSoftmax& running);

// Turns logits into what their gradient is but for the target's term: -scale exp(logit - log_sum). As `type`, float32
// or bfloat16, in place from the row's start on.
void softmax_gradient(float* logits, int64_t count, float log_sum, float scale, linear_detail::Float type);

}  // namespace mamba::ops::linear_cross_entropy_detail
