// The forward convolution on a CPU. A task is one row of the batch and a stretch of time, and goes through all channels
// for a few positions at once: rows then stream through the cache front to back, and each load of a weight serves
// several outputs. An output sees its K rows through pointers, which lets the rows before the first come from the state
// and those behind a reset from a row of zeros, without a branch in the inner loop.
//
// An output is bias + w[0] x[t - K + 1] + ... + w[K - 1] x[t], added in this order everywhere, so results do not depend
// on how time is cut.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/causal_conv1d/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/causal_conv1d/pack-inl.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

// Positions that share one load of the weights.
constexpr int kGroup = 4;

// The kCount outputs whose taps are rows[i] ... rows[i + K - 1]; `y` is the first's row. kTaps is K, or 0 for any K.
template <int kTaps, int kCount, typename T>
void outputs(const conv::Inputs& in, const Packed& packed, const T* const* rows, T* y) {
  const FloatTag d;
  const int64_t K = kTaps == 0 ? in.taps : kTaps;
  const T* near[kTaps == 0 ? 1 : kTaps + kCount - 1];  // known not to be written to
  if constexpr (kTaps != 0) {
    std::copy_n(rows, kTaps + kCount - 1, near);
    rows = near;
  }
  for (int64_t c = 0; c < in.channels; c += static_cast<int64_t>(hn::Lanes(d))) {
    const size_t left = static_cast<size_t>(in.channels - c);
    FloatVec sum[kCount];
    for (int i = 0; i < kCount; ++i) {
      sum[i] = hn::LoadU(d, packed.bias + c);
    }
    for (int64_t k = 0; k < K; ++k) {
      const FloatVec w = hn::LoadU(d, packed.weight + k * packed.stride + c);
      for (int i = 0; i < kCount; ++i) {
        sum[i] = hn::MulAdd(w, load_some(d, rows[i + k] + c, left), sum[i]);
      }
    }
    if (in.silu) {
      silu_each(d, sum);
    }
    for (int i = 0; i < kCount; ++i) {
      store_some(d, sum[i], y + i * in.channels + c, left);
    }
  }
}

template <int kCount, typename T>
void outputs_for(const conv::Inputs& in, const Packed& packed, const T* const* rows, T* y) {
  switch (in.taps) {
    case 2:
      return outputs<2, kCount>(in, packed, rows, y);
    case 3:
      return outputs<3, kCount>(in, packed, rows, y);
    case 4:
      return outputs<4, kCount>(in, packed, rows, y);
    default:
      return outputs<0, kCount>(in, packed, rows, y);
  }
}

// Positions [from, to) of row b.
template <typename T>
void convolve(const conv::Inputs& in, const Packed& packed, int64_t b, int64_t from, int64_t to, T* y) {
  const auto [begin, end] = cpu::span_of(in.spans, b, in.length);
  const T* zeros = reinterpret_cast<const T*>(packed.zeros);
  const size_t pointers = static_cast<size_t>(in.taps + kGroup - 1);
  auto** rows = reinterpret_cast<const T**>(cpu::scratch(pointers * sizeof(const T*) / sizeof(float)));
  y += b * in.length * in.channels;
  for (int64_t t = from; t < to;) {
    if (t < begin || t >= end) {
      std::fill_n(y + t * in.channels, in.channels, T(0.0f));
      ++t;
      continue;
    }
    int64_t count = std::min<int64_t>(kGroup, std::min(to, end) - t);
    if (in.resets != nullptr && count == kGroup) {
      const uint8_t* resets = in.resets + b * in.length + t;
      count = std::all_of(resets + 1, resets + kGroup, [](uint8_t reset) { return reset == 0; }) ? kGroup : 1;
    }
    count = count == kGroup ? kGroup : 1;
    const int64_t visible = conv::first_visible(in, b, begin, t);
    for (int64_t i = 0; i < in.taps - 1 + count; ++i) {
      const T* row = conv::row_at<T>(in, b, begin, visible, t - in.taps + 1 + i);
      rows[i] = row == nullptr ? zeros : row;
    }
    if (count == kGroup) {
      outputs_for<kGroup>(in, packed, rows, y + t * in.channels);
    } else {
      outputs_for<1>(in, packed, rows, y + t * in.channels);
    }
    t += count;
  }
}

template <typename T>
void last_inputs(const conv::Inputs& in, int64_t b, T* state) {
  const auto [begin, end] = cpu::span_of(in.spans, b, in.length);
  // What the output at `end` would see of the rows before it.
  const int64_t visible = end == begin ? INT64_MIN : conv::first_visible(in, b, begin, end - 1);
  state += b * (in.taps - 1) * in.channels;
  for (int64_t i = 0; i < in.taps - 1; ++i, state += in.channels) {
    const T* row = conv::row_at<T>(in, b, begin, visible, end - in.taps + 1 + i);
    if (row == nullptr) {
      std::fill_n(state, in.channels, T(0.0f));
    } else {
      std::copy_n(row, in.channels, state);
    }
  }
}

void convolve_forward(const conv::Inputs& in, const conv::Outputs& out) {
  const Packed packed = pack(in);
  // About 10 us of work a task, in whole groups.
  const int64_t stretch = std::clamp<int64_t>(32768 / in.channels, kGroup, 64) / kGroup * kGroup;
  const int64_t stretches = (in.length + stretch - 1) / stretch;
  const int64_t grain = std::max<int64_t>(1, 32768 / (stretch * in.channels));
  cpu::visit(in.element, [&](auto type) {
    using T = decltype(type);
    parallel_for(in.batch * stretches, grain, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t from = task % stretches * stretch;
        convolve(in, packed, task / stretches, from, std::min(from + stretch, in.length), static_cast<T*>(out.y));
      }
    });
    for (int64_t b = 0; b < in.batch; ++b) {
      last_inputs(in, b, static_cast<T*>(out.state));
    }
  });
}

void convolve_positions(const conv::Inputs& in, int64_t b, int64_t from, int64_t to, void* y) {
  const Packed packed = packed_parts(in);
  cpu::visit(in.element, [&](auto type) { convolve(in, packed, b, from, to, static_cast<decltype(type)*>(y)); });
}

void state_of_row(const conv::Inputs& in, int64_t b, void* state) {
  cpu::visit(in.element, [&](auto type) { last_inputs(in, b, static_cast<decltype(type)*>(state)); });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(convolve_forward);
HWY_EXPORT(convolve_positions);
HWY_EXPORT(state_of_row);

void conv::forward(const Inputs& in, const Outputs& out) {
  HWY_DYNAMIC_DISPATCH(convolve_forward)(in, out);
}

void conv::forward_positions(const Inputs& in, int64_t b, int64_t from, int64_t to, void* y) {
  HWY_DYNAMIC_DISPATCH(convolve_positions)(in, b, from, to, y);
}

void conv::forward_state(const Inputs& in, int64_t b, void* state) {
  HWY_DYNAMIC_DISPATCH(state_of_row)(in, b, state);
}

}  // namespace mamba::ops
#endif
