// Inside linear: vectors of float32 from and to the three dtypes. Included once per SIMD target.
#if defined(MAMBA_OPS_LINEAR_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_LINEAR_SIMD_INL_H_
#undef MAMBA_OPS_LINEAR_SIMD_INL_H_
#else
#define MAMBA_OPS_LINEAR_SIMD_INL_H_
#endif

#include <mlx/array.h>

#include <algorithm>
#include <cstring>

#include "hwy/highway.h"
#include "mamba/ops/linear/products.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));

HWY_INLINE VF load_float(const float* p) {
  return hn::LoadU(DF(), p);
}

template <typename T>  // hwy::bfloat16_t or hwy::float16_t
HWY_INLINE VF load_float(const T* p) {
  return hn::PromoteTo(DF(), hn::LoadU(hn::Rebind<T, DF>(), p));
}

// The first `count` <= kLanes elements, then zeros.
template <typename T>
HWY_INLINE VF load_float_part(const T* p, int64_t count) {
  if constexpr (kLanes == 1) {  // GCC would see a copy of two into one lane
    return count > 0 ? load_float(p) : hn::Zero(DF());
  } else {
    HWY_ALIGN T part[kLanes] = {};
    std::memcpy(part, p, static_cast<size_t>(count) * sizeof(T));
    return load_float(part);
  }
}

HWY_INLINE void store_float(VF v, float* p) {
  hn::StoreU(v, DF(), p);
}

// Highway 1.0's own demotion to bfloat16 truncates; this rounds to nearest, ties to even.
HWY_INLINE void store_float(VF v, hwy::bfloat16_t* p) {
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<uint16_t, DF> du16;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7FC00000), rounded);
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di, hn::ShiftRight<16>(kept))), du16, reinterpret_cast<uint16_t*>(p));
}

HWY_INLINE void store_float(VF v, hwy::float16_t* p) {
#if HWY_TARGET <= HWY_AVX2 || HWY_TARGET == HWY_NEON
  const hn::Rebind<hwy::float16_t, DF> df16;
  hn::StoreU(hn::DemoteTo(df16, v), df16, p);
#else  // Highway 1.0 truncates where the processor has no instruction for it.
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, DF(), lanes);
  for (int64_t i = 0; i < kLanes; ++i) {
    const mlx::core::float16_t rounded(lanes[i]);
    std::memcpy(p + i, &rounded, sizeof(rounded));
  }
#endif
}

template <typename T>
HWY_INLINE void store_float_part(VF v, T* p, int64_t count) {
  HWY_ALIGN T part[kLanes];
  store_float(v, part);
  std::memcpy(p, part, static_cast<size_t>(count) * sizeof(T));
}

// `count` elements widened, then zeros up to `padded`.
template <typename T>
HWY_INLINE void widen_row(const T* from, int64_t count, float* to, int64_t padded) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store_float(load_float(from + i), to + i);
  }
  if (i < count) {
    // `padded` is whole vectors, so the last one may be written whole.
    store_float(load_float_part(from + i, count - i), to + i);
    i += kLanes;
  }
  std::fill(to + std::min(i, padded), to + padded, 0.0f);
}

// to[i] = from[i] (+ bias[i]), rounded to T.
template <typename T>
HWY_INLINE void narrow_row(const float* from, const float* bias, int64_t count, T* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF v = load_float(from + i);
    store_float(bias == nullptr ? v : hn::Add(v, load_float(bias + i)), to + i);
  }
  if (i < count) {
    const VF v = load_float_part(from + i, count - i);
    store_float_part(bias == nullptr ? v : hn::Add(v, load_float_part(bias + i, count - i)), to + i, count - i);
  }
}

// Calls f with a pointer of the element type that `type` names.
template <typename F>
HWY_INLINE void with_type(Float type, const void* p, const F& f) {
  switch (type) {
    case Float::kFloat32:
      return f(static_cast<const float*>(p));
    case Float::kBfloat16:
      return f(static_cast<const hwy::bfloat16_t*>(p));
    case Float::kFloat16:
      return f(static_cast<const hwy::float16_t*>(p));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#endif
