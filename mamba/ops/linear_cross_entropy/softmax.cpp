#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/linear_cross_entropy/softmax.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include <cmath>

#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/linear/simd-inl.h"
#include "mamba/ops/linear_cross_entropy/softmax.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_cross_entropy_detail {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = linear_detail::HWY_NAMESPACE;
using simd::DF;
using simd::kLanes;
using simd::VF;

HWY_INLINE VF exp_of(VF v) {
  return mamba::ops::HWY_NAMESPACE::exp(DF(), v);
}

void accumulate_impl(const float* logits, int64_t count, RunningSoftmax& running) {
  const DF d;
  const int64_t whole = count / kLanes * kLanes;
  VF high = hn::Set(d, running.maximum);
  for (int64_t j = 0; j < whole; j += kLanes) {
    high = hn::Max(high, hn::LoadU(d, logits + j));
  }
  float maximum = hn::GetLane(hn::MaxOfLanes(d, high));
  for (int64_t j = whole; j < count; ++j) {
    maximum = std::max(maximum, logits[j]);
  }
  if (maximum == -__builtin_inff()) {
    return;  // every logit so far is -infinity
  }
  const VF shift = hn::Set(d, maximum);
  VF sums = hn::Zero(d);
  for (int64_t j = 0; j < whole; j += kLanes) {
    sums = hn::Add(sums, exp_of(hn::Sub(hn::LoadU(d, logits + j), shift)));
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (int64_t j = whole; j < count; ++j) {
    sum += std::exp(logits[j] - maximum);
  }
  running.sum = running.sum * std::exp(static_cast<double>(running.maximum) - maximum) + sum;
  running.maximum = maximum;
}

template <typename T>
HWY_INLINE void softmax_gradient_row(const float* logits, int64_t count, float log_sum, float scale, T* to) {
  const DF d;
  const VF shift = hn::Set(d, log_sum);
  const VF factor = hn::Set(d, -scale);
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    simd::store_float(hn::Mul(factor, exp_of(hn::Sub(hn::LoadU(d, logits + j), shift))), to + j);
  }
  if (j < count) {
    const VF logit = simd::load_float_part(logits + j, count - j);
    simd::store_float_part(hn::Mul(factor, exp_of(hn::Sub(logit, shift))), to + j, count - j);
  }
}

void softmax_gradient_impl(float* logits, int64_t count, float log_sum, float scale, linear_detail::Float type) {
  if (type == linear_detail::Float::kBfloat16) {
    softmax_gradient_row(logits, count, log_sum, scale, reinterpret_cast<hwy::bfloat16_t*>(logits));
  } else {
    softmax_gradient_row(logits, count, log_sum, scale, logits);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_cross_entropy_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_cross_entropy_detail {

HWY_EXPORT(accumulate_impl);
HWY_EXPORT(softmax_gradient_impl);

void accumulate(const float* logits, int64_t count, RunningSoftmax& running) {
  HWY_DYNAMIC_DISPATCH(accumulate_impl)(logits, count, running);
}

void softmax_gradient(float* logits, int64_t count, float log_sum, float scale, linear_detail::Float type) {
  HWY_DYNAMIC_DISPATCH(softmax_gradient_impl)(logits, count, log_sum, scale, type);
}

}  // namespace mamba::ops::linear_cross_entropy_detail
#endif
