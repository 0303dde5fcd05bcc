// Weights, bias and zeros in the layout of the kernels. Highway per-target header.

#if defined(MAMBA_OPS_CAUSAL_CONV1D_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CAUSAL_CONV1D_PACK_INL_H_
#undef MAMBA_OPS_CAUSAL_CONV1D_PACK_INL_H_
#else
#define MAMBA_OPS_CAUSAL_CONV1D_PACK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {

static_assert(hn::MaxLanes(FloatTag()) <= conv::kPad, "padded rows hold whole vectors");

struct Packed {
  int64_t stride;
  const float* weight;  // (K, stride)
  const float* bias;    // (stride)
  const float* zeros;   // (stride), zeros of any element type
};

// What in.packed holds.
HWY_INLINE Packed packed_parts(const conv::Inputs& in) {
  const int64_t stride = conv::packed_stride(in.channels);
  const float* const bias = in.packed + in.taps * stride;
  return {stride, in.packed, bias, bias + stride};
}

HWY_INLINE Packed pack(const conv::Inputs& in) {
  const int64_t stride = conv::packed_stride(in.channels);
  float* weight = in.packed;
  float* bias = weight + in.taps * stride;
  float* wide = bias + 2 * stride;
  std::fill(weight, wide, 0.0f);
  widen(in.weight, in.channels * in.taps, wide);
  transpose(wide, in.taps, in.channels, in.taps, weight, stride);
  if (in.bias.data != nullptr) {
    widen(in.bias, in.channels, bias);
  }
  return packed_parts(in);
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CAUSAL_CONV1D_PACK_INL_H_
