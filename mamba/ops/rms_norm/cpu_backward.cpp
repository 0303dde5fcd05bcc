// The backward normalisation on a CPU. With r = 1 / rms and g = gy * weight, a row's gradient is
//
//   gx = r (g - x r^2 mean_d(g x))       and the weight's is the sum over rows of gy x r.
//
// Rows are done in groups that depend on their number alone; each group adds up its share of the weight's gradient,
// and the shares are added in order.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/rms_norm/cpu_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/rms_norm/kernel.h"
#include "mamba/ops/rms_norm/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

// Turns gy into gy * weight, adds the row's share to `share`, and returns sum_d(gy weight x).
float weigh_row(const float* x, float r, const float* weight, int64_t count, float* gy, float* share) {
  const FloatTag d;
  const FloatVec scale = hn::Set(d, r);
  FloatVec dot = hn::Zero(d);
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = static_cast<size_t>(count - c);
    const FloatVec g = hn::Load(d, gy + c);
    const FloatVec xv = hn::Load(d, x + c);
    store_some(d, hn::MulAdd(hn::Mul(xv, scale), g, load_some(d, share + c, left)), share + c, left);
    const FloatVec weighted = hn::Mul(g, load_some(d, weight + c, left));
    dot = hn::MulAdd(weighted, xv, dot);
    hn::Store(weighted, d, gy + c);
  }
  return hn::GetLane(hn::SumOfLanes(d, dot));
}

// g becomes r (g - x `along`), plus `extra` where there is one.
template <typename T>
void project_row(const float* x, float r, float along, const T* extra, int64_t count, float* g) {
  const FloatTag d;
  const FloatVec scale = hn::Set(d, r);
  const FloatVec factor = hn::Set(d, along);
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    FloatVec gx = hn::Mul(scale, hn::NegMulAdd(hn::Load(d, x + c), factor, hn::Load(d, g + c)));
    if (extra != nullptr) {
      gx = hn::Add(gx, load_some(d, extra + c, static_cast<size_t>(count - c)));
    }
    hn::Store(gx, d, g + c);
  }
}

template <typename T>
void narrow_row(const float* row, int64_t count, T* out) {
  const FloatTag d;
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    store_some(d, hn::Load(d, row + c), out + c, static_cast<size_t>(count - c));
  }
}

void group_back(const norm::GradientInputs& in, const norm::Gradients& out, const float* weight, int64_t first,
                int64_t last, float* share) {
  const int64_t D = in.channels;
  float* x = cpu::scratch(static_cast<size_t>(2 * padded_row(D)));
  float* g = x + padded_row(D);
  std::fill_n(share, D, 0.0f);
  for (int64_t i = first; i < last; ++i) {
    const int64_t b = i / in.length;
    const int64_t t = i % in.length;
    cpu::visit(in.x_element, [&](auto type) HWY_ATTR { widen_row(in.x.row<decltype(type)>(b, t), D, x); });
    cpu::visit(in.gy_element, [&](auto type) HWY_ATTR { widen_row(in.gy.row<decltype(type)>(b, t), D, g); });
    const float r = inverse_rms(x, D, in.eps);
    const float along = weigh_row(x, r, weight, D, g, share) * r * r / static_cast<float>(D);
    cpu::visit(in.gsum_element, [&](auto type) HWY_ATTR {
      using T = decltype(type);
      project_row<T>(x, r, along, in.gsum.data == nullptr ? nullptr : in.gsum.row<T>(b, t), D, g);
    });
    if (out.wide != nullptr) {
      narrow_row(g, D, static_cast<float*>(out.wide) + i * D);
    }
    cpu::visit(out.x_element,
               [&](auto type) HWY_ATTR { narrow_row(g, D, static_cast<decltype(type)*>(out.x) + i * D); });
  }
}

void normalise_backward(const norm::GradientInputs& in, const norm::Gradients& out) {
  const int64_t D = in.channels;
  const float* weight = wide_weight(in.weight, D, in.wide_weight);
  const int64_t rows = in.batch * in.length;
  const int64_t size = norm::rows_per_group(rows);
  const int64_t groups = norm::num_groups(rows);
  parallel_for(groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      group_back(in, out, weight, group * size, std::min(rows, (group + 1) * size), out.shares + group * D);
    }
  });
  const FloatTag d;
  cpu::visit(out.weight_element, [&](auto type) HWY_ATTR {
    auto* gradient = static_cast<decltype(type)*>(out.weight);
    for (int64_t c = 0; c < D; c += static_cast<int64_t>(hn::Lanes(d))) {
      const size_t left = static_cast<size_t>(D - c);
      FloatVec sum = hn::Zero(d);
      for (int64_t group = 0; group < groups; ++group) {
        sum = hn::Add(sum, load_some(d, out.shares + group * D + c, left));
      }
      store_some(d, sum, gradient + c, left);
    }
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(normalise_backward);

void norm::backward(const GradientInputs& in, const Gradients& out) {
  HWY_DYNAMIC_DISPATCH(normalise_backward)(in, out);
}

}  // namespace mamba::ops
#endif
