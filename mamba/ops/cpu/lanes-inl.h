// Sums across the lanes of vectors. Highway per-target header.

#if defined(MAMBA_OPS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CPU_LANES_INL_H_
#undef MAMBA_OPS_CPU_LANES_INL_H_
#else
#define MAMBA_OPS_CPU_LANES_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The sums of four vectors' lanes, in to[0 .. 3]: in half as many instructions as one after the other, and in the same
// order whichever of the four a vector is.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void sum_lanes(D d, V v0, V v1, V v2, V v3, float* to) {
#if HWY_TARGET == HWY_SCALAR
  hn::Store(v0, d, to);
  hn::Store(v1, d, to + 1);
  hn::Store(v2, d, to + 2);
  hn::Store(v3, d, to + 3);
#else
  const V low = hn::Add(hn::InterleaveLower(d, v0, v2), hn::InterleaveUpper(d, v0, v2));
  const V high = hn::Add(hn::InterleaveLower(d, v1, v3), hn::InterleaveUpper(d, v1, v3));
  const V four = hn::Add(hn::InterleaveLower(d, low, high), hn::InterleaveUpper(d, low, high));
  if constexpr (hn::MaxLanes(d) == 16) {
    const hn::Half<D> d8;
    const hn::Half<decltype(d8)> d4;
    const auto eight = hn::Add(hn::LowerHalf(d8, four), hn::UpperHalf(d8, four));
    hn::StoreU(hn::Add(hn::LowerHalf(d4, eight), hn::UpperHalf(d4, eight)), d4, to);
  } else if constexpr (hn::MaxLanes(d) == 8) {
    const hn::Half<D> d4;
    hn::StoreU(hn::Add(hn::LowerHalf(d4, four), hn::UpperHalf(d4, four)), d4, to);
  } else {
    hn::StoreU(four, d, to);
  }
#endif
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CPU_LANES_INL_H_
