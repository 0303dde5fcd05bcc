// What forward and backward normalisation share. Highway per-target header.

#if defined(MAMBA_OPS_RMS_NORM_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_RMS_NORM_ROWS_INL_H_
#undef MAMBA_OPS_RMS_NORM_ROWS_INL_H_
#else
#define MAMBA_OPS_RMS_NORM_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>

#include "mamba/ops/cpu/floats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {

// Floats that a widened row of `count` takes: whole vectors, the last one filled up with zeros.
HWY_INLINE int64_t padded_row(int64_t count) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(FloatTag()));
  return (count + lanes - 1) / lanes * lanes;
}

template <typename T>
HWY_INLINE void widen_row(const T* in, int64_t count, float* out) {
  const FloatTag d;
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    hn::Store(load_some(d, in + c, static_cast<size_t>(count - c)), d, out + c);
  }
}

// The weights as floats: themselves, or widened into `workspace`.
HWY_INLINE const float* wide_weight(const cpu::Numbers& weight, int64_t count, float* workspace) {
  if (weight.element == cpu::Element::kFloat32) {
    return static_cast<const float*>(weight.data);
  }
  widen(weight, count, workspace);
  return workspace;
}

// 1 / sqrt(mean of squares + eps) of a widened row.
HWY_INLINE float inverse_rms(const float* row, int64_t count, float eps) {
  const FloatTag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = padded_row(count);
  FloatVec sum0 = hn::Zero(d);
  FloatVec sum1 = hn::Zero(d);
  FloatVec sum2 = hn::Zero(d);
  FloatVec sum3 = hn::Zero(d);
  const auto add = [&](int64_t c, FloatVec& sum) HWY_ATTR {
    const FloatVec v = hn::Load(d, row + c);
    sum = hn::MulAdd(v, v, sum);
  };
  int64_t c = 0;
  for (; c + 4 * lanes <= end; c += 4 * lanes) {
    add(c, sum0);
    add(c + lanes, sum1);
    add(c + 2 * lanes, sum2);
    add(c + 3 * lanes, sum3);
  }
  for (; c < end; c += lanes) {
    add(c, sum0);
  }
  const FloatVec sum = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  const float squares = hn::GetLane(hn::SumOfLanes(d, sum));
  return 1.0f / std::sqrt(squares / static_cast<float>(count) + eps);
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_RMS_NORM_ROWS_INL_H_
