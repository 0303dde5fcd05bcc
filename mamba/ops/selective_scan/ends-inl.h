// What the backward scan does for a block of channels before its last chunk of time and after its first. Highway
// per-target header.

#if defined(MAMBA_OPS_SELECTIVE_SCAN_ENDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_SELECTIVE_SCAN_ENDS_INL_H_
#undef MAMBA_OPS_SELECTIVE_SCAN_ENDS_INL_H_
#else
#define MAMBA_OPS_SELECTIVE_SCAN_ENDS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "mamba/ops/cpu/transpose-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {

// Cotangents of the state into the layout of the kernels, for one block of a row of the batch; sums start at 0.
inline void start_block(const scan::Inputs& in, const scan::Cotangents& cotangents, const scan::Workspace& work,
                        int64_t task) {
  const int64_t blocks = scan::num_blocks(in.channels);
  const int64_t state_floats = in.states * scan::kBlock;
  const int64_t first = task % blocks * scan::kBlock;
  float* carry = work.carry + task * state_floats;
  std::fill_n(carry, state_floats, 0.0f);
  std::fill_n(work.A + task * state_floats, state_floats, 0.0f);
  std::fill_n(work.D + task * scan::kBlock, scan::kBlock, 0.0f);
  std::fill_n(work.bias + task * scan::kBlock, scan::kBlock, 0.0f);
  if (cotangents.state == nullptr) {
    return;
  }
  const float* rows = cotangents.state + (task / blocks * in.channels + first) * in.states;
  transpose(rows, in.states, std::min(scan::kBlock, in.channels - first), in.states, carry, scan::kBlock);
}

template <typename T>
inline void add_batch(const float* sums, int64_t batch, int64_t stride, int64_t count, T* out) {
  for (int64_t c = 0; c < count; ++c) {
    float sum = 0.0f;
    for (int64_t b = 0; b < batch; ++b) {
      sum += sums[b * stride + c];
    }
    out[c] = static_cast<T>(sum);
  }
}

// What a block of channels has of all rows of the batch.
inline void end_block(const scan::Inputs& in, const scan::Gradients& out, const scan::Workspace& work, int64_t index) {
  const int64_t blocks = scan::num_blocks(in.channels);
  const int64_t state_floats = in.states * scan::kBlock;
  const int64_t first = index * scan::kBlock;
  const int64_t count = std::min(scan::kBlock, in.channels - first);
  float* sum = work.A + index * state_floats;
  for (int64_t b = 1; b < in.batch; ++b) {
    const float* other = work.A + (b * blocks + index) * state_floats;
    for (int64_t i = 0; i < state_floats; ++i) {
      sum[i] += other[i];
    }
  }
  transpose(sum, scan::kBlock, in.states, count, out.A + first * in.states, in.states);
  for (int64_t b = 0; out.initial_state != nullptr && b < in.batch; ++b) {
    transpose(work.carry + (b * blocks + index) * state_floats, scan::kBlock, in.states, count,
              out.initial_state + (b * in.channels + first) * in.states, in.states);
  }
  const auto per_channel = [&](const float* sums, cpu::Element element, void* gradient) {
    if (gradient != nullptr) {
      cpu::visit(element, [&](auto type) {
        add_batch(sums + first, in.batch, blocks * scan::kBlock, count, static_cast<decltype(type)*>(gradient) + first);
      });
    }
  };
  per_channel(work.D, in.D.element, out.D);
  per_channel(work.bias, in.delta_bias.element, out.delta_bias);
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_SELECTIVE_SCAN_ENDS_INL_H_
