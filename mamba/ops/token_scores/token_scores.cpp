#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/token_scores/token_scores.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/token_scores/token_scores.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

float largest_impl(const float* logits, int64_t count) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  FloatVec high = hn::Set(d, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const FloatVec v = hn::LoadU(d, logits + i);
    high = hn::IfThenElse(hn::Gt(v, high), v, high);
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, high));
  for (; i < count; ++i) {
    largest = logits[i] > largest ? logits[i] : largest;
  }
  return largest;
}

// Floats are added up over a block, the blocks' sums in double: no error grows with the vocabulary.
double sum_of_exp_impl(const float* logits, int64_t count, float shift) {
  constexpr int64_t kBlock = 1024;
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const FloatVec shifts = hn::Set(d, shift);
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    FloatVec sum = hn::Zero(d);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      sum = hn::Add(sum, exp(d, hn::Sub(hn::LoadU(d, logits + i), shifts)));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
    for (; i < end; ++i) {
      total += std::exp(static_cast<double>(logits[i]) - shift);
    }
  }
  return total;
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(largest_impl);
HWY_EXPORT(sum_of_exp_impl);

int64_t largest_index(std::span<const float> logits) {
  const float largest = HWY_DYNAMIC_DISPATCH(largest_impl)(logits.data(), static_cast<int64_t>(logits.size()));
  const auto found = std::find(logits.begin(), logits.end(), largest);
  return found == logits.end() ? 0 : found - logits.begin();
}

double log_sum_exp(std::span<const float> logits) {
  const auto count = static_cast<int64_t>(logits.size());
  const float largest = HWY_DYNAMIC_DISPATCH(largest_impl)(logits.data(), count);
  if (std::isinf(largest)) {
    return largest;
  }
  return largest + std::log(HWY_DYNAMIC_DISPATCH(sum_of_exp_impl)(logits.data(), count, largest));
}

}  // namespace mamba::ops
#endif
