// The forward normalisation on a CPU. A row is widened into the thread's scratch memory once and stays in the
// first-level cache while it is summed, rounded, squared and scaled; memory sees each array once. The order in which
// the squares of a row are added depends on its length alone.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/rms_norm/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/rms_norm/kernel.h"
#include "mamba/ops/rms_norm/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename T>
void add_row(const T* in, int64_t count, float* sum) {
  const FloatTag d;
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = static_cast<size_t>(count - c);
    hn::Store(hn::Add(hn::Load(d, sum + c), load_some(d, in + c, left)), d, sum + c);
  }
}

// Writes the row and takes over what rounding left of it.
template <typename T>
void round_row(float* row, int64_t count, T* out) {
  const FloatTag d;
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = static_cast<size_t>(count - c);
    store_some(d, hn::Load(d, row + c), out + c, left);
    if constexpr (!std::is_same_v<T, float>) {
      hn::Store(load_some(d, out + c, left), d, row + c);
    }
  }
}

template <typename T>
void scale_row(const float* row, const float* weight, float scale, int64_t count, T* out) {
  const FloatTag d;
  const FloatVec r = hn::Set(d, scale);
  for (int64_t c = 0; c < count; c += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = static_cast<size_t>(count - c);
    const FloatVec w = load_some(d, weight + c, left);
    store_some(d, hn::Mul(hn::Mul(hn::Load(d, row + c), r), w), out + c, left);
  }
}

void normalise_rows(const norm::Inputs& in, const norm::Outputs& out, const float* weight, int64_t first,
                    int64_t last) {
  const int64_t D = in.channels;
  float* row = cpu::scratch(static_cast<size_t>(padded_row(D)));
  for (int64_t i = first; i < last; ++i) {
    const int64_t b = i / in.length;
    const int64_t t = i % in.length;
    cpu::visit(in.element, [&](auto type) HWY_ATTR { widen_row(in.x.row<decltype(type)>(b, t), D, row); });
    if (in.residual.data != nullptr) {
      cpu::visit(in.residual_element,
                 [&](auto type) HWY_ATTR { add_row(in.residual.row<decltype(type)>(b, t), D, row); });
    }
    if (out.sum != nullptr) {
      cpu::visit(out.sum_element,
                 [&](auto type) HWY_ATTR { round_row(row, D, static_cast<decltype(type)*>(out.sum) + i * D); });
    }
    const float scale = inverse_rms(row, D, in.eps);
    cpu::visit(out.y_element, [&](auto type) HWY_ATTR {
      scale_row(row, weight, scale, D, static_cast<decltype(type)*>(out.y) + i * D);
    });
  }
}

void normalise(const norm::Inputs& in, const norm::Outputs& out) {
  const float* weight = wide_weight(in.weight, in.channels, in.wide_weight);
  const int64_t grain = std::max<int64_t>(1, 16384 / in.channels);
  parallel_for(in.batch * in.length, grain,
               [&](int64_t first, int64_t last) { normalise_rows(in, out, weight, first, last); });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(normalise);

void norm::forward(const Inputs& in, const Outputs& out) {
  HWY_DYNAMIC_DISPATCH(normalise)(in, out);
}

}  // namespace mamba::ops
#endif
