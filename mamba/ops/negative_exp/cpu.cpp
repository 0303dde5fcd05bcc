#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/negative_exp/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/negative_exp/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

void negative_exp_all(const float* x, int64_t count, float* y) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const FloatTag d;
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
      const auto left = static_cast<size_t>(end - i);
      store_some(d, hn::Neg(exp(d, load_some(d, x + i, left))), y + i, left);
    }
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(negative_exp_all);

void negative_exp_detail::apply(const float* x, int64_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(negative_exp_all)(x, count, y);
}

}  // namespace mamba::ops
#endif
