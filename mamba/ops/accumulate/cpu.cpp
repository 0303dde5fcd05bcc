#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/accumulate/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mamba/base/threads.h"
#include "mamba/ops/accumulate/kernel.h"
#include "mamba/ops/cpu/floats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename Sum, typename Value>
void add_range(const Sum* sum, const Value* value, int64_t begin, int64_t end, Sum* out) {
  const FloatTag d;
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(end - i);
    store_some(d, hn::Add(load_some(d, sum + i, left), load_some(d, value + i, left)), out + i, left);
  }
}

void add_all(const accumulate_detail::Job& job) {
  constexpr int64_t kGrain = 1 << 15;
  parallel_for(job.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu::visit(job.sum.element, [&](auto sum_type) HWY_ATTR {
      cpu::visit(job.value.element, [&](auto value_type) HWY_ATTR {
        add_range(static_cast<const decltype(sum_type)*>(job.sum.data),
                  static_cast<const decltype(value_type)*>(job.value.data), begin, end,
                  static_cast<decltype(sum_type)*>(job.out));
      });
    });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(add_all);

void accumulate_detail::add(const Job& job) {
  HWY_DYNAMIC_DISPATCH(add_all)(job);
}

}  // namespace mamba::ops
#endif
