// AdamW on a CPU: one pass over the arrays, bound by memory.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/adamw/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "mamba/base/threads.h"
#include "mamba/ops/adamw/kernel.h"
#include "mamba/ops/cpu/floats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

struct Pointers {
  const float* parameter;
  const float* m;
  const float* v;
  const float* average;
  float* new_parameter;
  float* new_m;
  float* new_v;
  float* new_average;
};

template <typename G, typename Copy>
void update_range(const Pointers& p, const G* gradient, Copy* copy, float scale, const adamw_detail::Factors& f,
                  int64_t begin, int64_t end) {
  const FloatTag d;
  const FloatVec gradient_scale = hn::Set(d, scale);
  const FloatVec beta1 = hn::Set(d, f.beta1);
  const FloatVec beta2 = hn::Set(d, f.beta2);
  const FloatVec one_minus_beta1 = hn::Set(d, f.one_minus_beta1);
  const FloatVec one_minus_beta2 = hn::Set(d, f.one_minus_beta2);
  const FloatVec keep = hn::Set(d, f.keep);
  const FloatVec step_size = hn::Set(d, f.step_size);
  const FloatVec inverse_root = hn::Set(d, 1.0f / f.root_of_bias2);
  const FloatVec eps = hn::Set(d, f.eps);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(end - i);
    const FloatVec g = hn::Mul(load_some(d, gradient + i, left), gradient_scale);
    const FloatVec m = hn::MulAdd(beta1, load_some(d, p.m + i, left), hn::Mul(one_minus_beta1, g));
    const FloatVec v = hn::MulAdd(beta2, load_some(d, p.v + i, left), hn::Mul(one_minus_beta2, hn::Mul(g, g)));
    const FloatVec denominator = hn::MulAdd(hn::Sqrt(v), inverse_root, eps);
    const FloatVec kept = hn::Mul(keep, load_some(d, p.parameter + i, left));
    const FloatVec parameter = hn::NegMulAdd(step_size, hn::Div(m, denominator), kept);
    store_some(d, m, p.new_m + i, left);
    store_some(d, v, p.new_v + i, left);
    store_some(d, parameter, p.new_parameter + i, left);
    if (p.average != nullptr) {
      const FloatVec old = hn::Mul(hn::Set(d, f.average_decay), load_some(d, p.average + i, left));
      store_some(d, hn::MulAdd(hn::Set(d, f.one_minus_average_decay), parameter, old), p.new_average + i, left);
    }
    if (copy != nullptr) {
      store_some(d, parameter, copy + i, left);
    }
  }
}

void update_some(const adamw_detail::Update& u, const adamw_detail::Factors& f, int64_t begin, int64_t end) {
  const float scale = u.gradient_scale == nullptr ? 1.0f : *u.gradient_scale;
  const Pointers p{u.parameter, u.m, u.v, u.average, u.new_parameter, u.new_m, u.new_v, u.new_average};
  cpu::visit(u.gradient.element, [&](auto gradient_type) HWY_ATTR {
    cpu::visit(u.copy_element, [&](auto copy_type) HWY_ATTR {
      update_range(p, static_cast<const decltype(gradient_type)*>(u.gradient.data),
                   static_cast<decltype(copy_type)*>(u.copy), scale, f, begin, end);
    });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(update_some);

void adamw_detail::update(const Update& update, const Factors& factors, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(update_some)(update, factors, begin, end);
}

void adamw_detail::update(const Update& u, const Factors& factors) {
  constexpr int64_t kGrain = 1 << 14;
  parallel_for(u.count, kGrain, [&](int64_t begin, int64_t end) { update(u, factors, begin, end); });
}

}  // namespace mamba::ops
#endif
