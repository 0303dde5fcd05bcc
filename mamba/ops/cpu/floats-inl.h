// Vectors of float from and to memory of any of our element types. Highway per-target header.
//
// 16-bit types are widened exactly and rounded to nearest even; Highway 1.0's own conversions truncate.

#if defined(MAMBA_OPS_CPU_FLOATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CPU_FLOATS_INL_H_
#undef MAMBA_OPS_CPU_FLOATS_INL_H_
#else
#define MAMBA_OPS_CPU_FLOATS_INL_H_
#endif

#include <hwy/highway.h>
#include <mlx/types/half_types.h>

#include <cstring>

#include "mamba/ops/cpu/view.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

HWY_INLINE FloatVec load(FloatTag d, const float* p) {
  return hn::LoadU(d, p);
}

HWY_INLINE FloatVec load(FloatTag d, const mlx::core::bfloat16_t* p) {
  const hn::Rebind<uint16_t, FloatTag> du16;
  const hn::Rebind<uint32_t, FloatTag> du32;
  const auto bits = hn::LoadU(du16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du32, bits)));
}

HWY_INLINE FloatVec load(FloatTag d, const mlx::core::float16_t* p) {
#if HWY_TARGET == HWY_SCALAR
  HWY_ALIGN float wide[hn::MaxLanes(FloatTag())];
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    wide[i] = static_cast<float>(p[i]);
  }
  return hn::Load(d, wide);
#else
  const hn::Rebind<hwy::float16_t, FloatTag> df16;
  return hn::PromoteTo(d, hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(p)));
#endif
}

HWY_INLINE void store(FloatTag d, FloatVec v, float* p) {
  hn::StoreU(v, d, p);
}

HWY_INLINE void store(FloatTag d, FloatVec v, mlx::core::bfloat16_t* p) {
  const hn::Rebind<uint16_t, FloatTag> du16;
  const hn::Rebind<uint32_t, FloatTag> du32;
  const hn::Rebind<int32_t, FloatTag> di32;
  const auto bits = hn::BitCast(du32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du32, 1));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du32, 0x7FFF)), odd);
  const auto quiet_nan = hn::Or(bits, hn::Set(du32, 0x00400000));  // adding could carry a NaN into infinity
  const auto is_nan = hn::RebindMask(du32, hn::IsNaN(v));
  const auto high = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet_nan, rounded));
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di32, high)), du16, reinterpret_cast<uint16_t*>(p));
  (void)d;
}

HWY_INLINE void store(FloatTag d, FloatVec v, mlx::core::float16_t* p) {
#if HWY_TARGET == HWY_SCALAR
  HWY_ALIGN float wide[hn::MaxLanes(FloatTag())];
  hn::Store(v, d, wide);
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    p[i] = mlx::core::float16_t(wide[i]);
  }
#else
  const hn::Rebind<hwy::float16_t, FloatTag> df16;
  hn::StoreU(hn::DemoteTo(df16, v), df16, reinterpret_cast<hwy::float16_t*>(p));
  (void)d;
#endif
}

// The first `count` lanes from p, the others 0; reads nothing behind them. For the last columns of a row.
template <typename T>
HWY_INLINE FloatVec load_some(FloatTag d, const T* p, size_t count) {
  if (HWY_LIKELY(count >= hn::Lanes(d))) {
    return load(d, p);
  }
  T part[hn::MaxLanes(FloatTag())] = {};
  std::memcpy(static_cast<void*>(part), p, count * sizeof(T));
  return load(d, part);
}

template <typename T>
HWY_INLINE void store_some(FloatTag d, FloatVec v, T* p, size_t count) {
  if (HWY_LIKELY(count >= hn::Lanes(d))) {
    store(d, v, p);
    return;
  }
  T part[hn::MaxLanes(FloatTag())];
  store(d, v, part);
  std::memcpy(static_cast<void*>(p), part, count * sizeof(T));
}

// The first `count` of the list as floats.
HWY_INLINE void widen(const cpu::Numbers& numbers, int64_t count, float* out) {
  const FloatTag d;
  cpu::visit(numbers.element, [&](auto type) HWY_ATTR {
    const auto* in = static_cast<const decltype(type)*>(numbers.data);
    for (int64_t i = 0; i < count; i += static_cast<int64_t>(hn::Lanes(d))) {
      const size_t left = static_cast<size_t>(count - i);
      store_some(d, load_some(d, in + i, left), out + i, left);
    }
  });
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CPU_FLOATS_INL_H_
