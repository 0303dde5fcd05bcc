#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/dropout/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/dropout/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

using BitsTag = hn::RebindToUnsigned<FloatTag>;
using Bits = hn::Vec<BitsTag>;

HWY_INLINE Bits mixed(BitsTag d, Bits h) {
  h = hn::Mul(hn::Xor(h, hn::ShiftRight<16>(h)), hn::Set(d, dropout_detail::kFirstFactor));
  h = hn::Mul(hn::Xor(h, hn::ShiftRight<13>(h)), hn::Set(d, dropout_detail::kSecondFactor));
  return hn::Xor(h, hn::ShiftRight<16>(h));
}

template <typename T>
void drop_range(const T* x, T* y, const dropout_detail::Mask& mask, int64_t begin, int64_t end) {
  const FloatTag d;
  const BitsTag bits;
  const hn::RebindToSigned<FloatTag> ints;
  const auto threshold = hn::Set(ints, static_cast<int32_t>(mask.threshold));
  const FloatVec scale = hn::Set(d, mask.scale);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(end - i);
    const Bits place = hn::Xor(hn::Iota(bits, static_cast<uint32_t>(i)), hn::Set(bits, mask.low));
    const Bits hash = mixed(bits, hn::Add(mixed(bits, place), hn::Set(bits, mask.high)));
    const auto falls = hn::Lt(hn::BitCast(ints, hn::ShiftRight<1>(hash)), threshold);
    const FloatVec kept = hn::Mul(load_some(d, x + i, left), scale);
    store_some(d, hn::IfThenZeroElse(hn::RebindMask(d, falls), kept), y + i, left);
  }
}

void drop(const dropout_detail::Job& job) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(job.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu::visit(job.element, [&](auto type) HWY_ATTR {
      using T = decltype(type);
      drop_range(static_cast<const T*>(job.x), static_cast<T*>(job.y), job.mask, begin, end);
    });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(drop);

void dropout_detail::apply(const Job& job) {
  HWY_DYNAMIC_DISPATCH(drop)(job);
}

}  // namespace mamba::ops
#endif
