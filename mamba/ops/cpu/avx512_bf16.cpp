#include "mamba/ops/cpu/avx512_bf16.h"

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/cpu/avx512_bf16.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

// hwy::SupportedTargets() asks the processor each time, which takes a virtual machine 20 us; dispatching does not.
int64_t target() {
  return HWY_TARGET;
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(target);

bool cpu::has_bf16_products() {
#ifdef MAMBA_AVX512_BF16
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
                          __builtin_cpu_supports("avx512bf16");
#ifdef MAMBA_SANITIZED
  constexpr int64_t kBest = HWY_AVX2;
#else
  constexpr int64_t kBest = HWY_AVX3;
#endif
  return has && HWY_DYNAMIC_DISPATCH(ops::target)() <= kBest;  // better ones have lower numbers
#else
  return false;
#endif
}

}  // namespace mamba::ops
#endif
