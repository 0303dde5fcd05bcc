// Inside quantized_linear: codes as vectors of float32. Included once per SIMD target.
#if defined(MAMBA_OPS_QUANTIZED_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_QUANTIZED_UNPACK_INL_H_
#undef MAMBA_OPS_QUANTIZED_UNPACK_INL_H_
#else
#define MAMBA_OPS_QUANTIZED_UNPACK_INL_H_
#endif

#include "hwy/highway.h"
#include "mamba/ops/linear/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = linear_detail::HWY_NAMESPACE;

using simd::DF;
using simd::VF;
using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;
inline constexpr int64_t kLanes = simd::kLanes;

// Of integers below 2^31.
HWY_INLINE VF small_to_float(VU code) {
  return hn::ConvertTo(DF(), hn::BitCast(hn::RebindToSigned<DF>(), code));
}

// kLanes codes of 8 bits, in order.
HWY_INLINE VU load_bytes(const uint8_t* p) {
  return hn::PromoteTo(DU(), hn::LoadU(hn::Rebind<uint8_t, DF>(), p));
}

#if HWY_TARGET != HWY_SCALAR
// kLanes codes of 4 bits, in order.
HWY_INLINE VU load_nibbles(const uint8_t* p) {
  const hn::Half<hn::Rebind<uint16_t, DF>> d16;
  const hn::Rebind<uint8_t, decltype(d16)> d8;
  const auto pairs = hn::PromoteTo(d16, hn::LoadU(d8, p));
  const auto apart = hn::And(hn::Or(pairs, hn::ShiftLeft<4>(pairs)), hn::Set(d16, uint16_t{0x0F0F}));
  return hn::PromoteTo(DU(), hn::BitCast(hn::Rebind<uint8_t, DF>(), apart));
}
#endif

// The first `count` <= kLanes elements, then zeros.
template <typename T>
HWY_INLINE VF load_first(const T* p, int64_t count) {
#if HWY_TARGET <= HWY_AVX3
  const auto n = static_cast<size_t>(count);
  if constexpr (sizeof(T) == 4) {
    return hn::MaskedLoad(hn::FirstN(DF(), n), DF(), p);
  } else {
    const hn::Rebind<uint16_t, DF> d16;
    const auto bits = hn::MaskedLoad(hn::FirstN(d16, n), d16, reinterpret_cast<const uint16_t*>(p));
    return hn::PromoteTo(DF(), hn::BitCast(hn::Rebind<T, DF>(), bits));
  }
#else
  return count == kLanes ? simd::load_float(p) : simd::load_float_part(p, count);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#endif
