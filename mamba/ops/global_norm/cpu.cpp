// Squares are added in float32 over short runs, then in float64: a run of 64 vectors loses no more than the last bits
// of a float, and float64 takes over before that adds up.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/global_norm/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include <algorithm>

#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/global_norm/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename T>
double sum_range(const T* in, int64_t count) {
  const FloatTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t run = 4 * lanes * 16;
  const int64_t ahead = run;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += run) {
    const int64_t end = std::min(count, begin + run);
    FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    int64_t i = begin;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
      hwy::Prefetch(in + i + ahead);
      hwy::Prefetch(in + i + ahead + 2 * lanes);
      MAMBA_CPU_UNROLL(4)
      for (int64_t j = 0; j < 4; ++j) {
        const FloatVec x = load(d, in + i + j * lanes);
        sums[j] = hn::MulAdd(x, x, sums[j]);
      }
    }
    for (int64_t j = 0; i < end; i += lanes, ++j) {
      const FloatVec x = load_some(d, in + i, static_cast<size_t>(end - i));
      sums[j] = hn::MulAdd(x, x, sums[j]);
    }
    const FloatVec sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
  return total;
}

double sum_squares(const cpu::Numbers& numbers, int64_t count) {
  return cpu::visit(numbers.element, [&](auto type) HWY_ATTR {
    return sum_range(static_cast<const decltype(type)*>(numbers.data), count);
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(sum_squares);

double global_norm_detail::sum_of_squares(const cpu::Numbers& numbers, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_squares)(numbers, count);
}

}  // namespace mamba::ops
#endif
