#include "mamba/ops/causal_conv1d/reference.h"

#include <mlx/ops.h>

namespace mamba::ops {

namespace mx = mlx::core;

// The inputs before the first and those of x are laid end to end: position p of x is row K - 1 + p of `all`. With
// spans, what precedes `begin` is not the row before it in x but the end of the state, so rows are gathered by index.
CausalConv1dOutputs causal_conv1d_reference(const CausalConv1dInputs& in, mx::StreamOrDevice s) {
  const int batch = in.x.shape(0);
  const int length = in.x.shape(1);
  const int channels = in.x.shape(2);
  const int taps = in.weight.shape(1);
  const mx::Dtype dtype = in.x.dtype() == mx::float64 ? mx::float64 : mx::float32;
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, s); };
  const mx::array zero = mx::array(0.0f, dtype);

  const mx::array state = in.initial_state ? wide(*in.initial_state) : mx::zeros({batch, taps - 1, channels}, dtype, s);
  const mx::array all = mx::concatenate({state, wide(in.x)}, 1, s);  // (B, K - 1 + L, D)
  mx::array begin = mx::zeros({batch, 1}, mx::int32, s);             // (B, 1)
  mx::array end = mx::full({batch, 1}, length, mx::int32, s);
  if (in.spans) {
    const mx::array cut = mx::clip(*in.spans, mx::array(0), mx::array(length), s);
    begin = mx::slice(cut, {0, 0}, {batch, 1}, s);
    end = mx::maximum(mx::slice(cut, {0, 1}, {batch, 2}, s), begin, s);
  }
  // (B, L): resets passed up to and with position t of the span. Rows before the span have passed none.
  mx::array passed = mx::zeros({batch, length}, mx::int32, s);
  const mx::array t = mx::broadcast_to(mx::arange(length, mx::int32, s), {batch, length}, s);
  if (in.resets && length > 0) {
    const mx::array real = mx::logical_and(mx::greater_equal(t, begin, s), mx::less(t, end, s), s);
    const mx::array reset = mx::logical_and(mx::not_equal(*in.resets, mx::array(0), s), real, s);
    passed = mx::cumsum(mx::astype(reset, mx::int32, s), 1, false, true, s);
  }
  const mx::array passed_all = mx::concatenate({mx::zeros({batch, taps - 1}, mx::int32, s), passed}, 1, s);
  // What the sequence has at positions p, (B, P), for an observer that has passed `seen` resets, (B, P).
  const auto rows_at = [&](const mx::array& p, const mx::array& seen) {
    const mx::array before = mx::subtract(mx::add(p, mx::array(taps - 1), s), begin, s);  // row of `state`
    const mx::array row = mx::where(mx::greater_equal(p, begin, s), mx::add(p, mx::array(taps - 1), s), before, s);
    const mx::array index = mx::clip(row, mx::array(0), mx::array(taps - 2 + length), s);
    const mx::array rows = mx::take_along_axis(all, mx::expand_dims(index, 2, s), 1, s);
    const mx::array visible = mx::equal(mx::take_along_axis(passed_all, index, 1, s), seen, s);
    return mx::where(mx::expand_dims(visible, 2, s), rows, zero, s);
  };

  mx::array y = mx::zeros({batch, length, channels}, dtype, s);
  if (length > 0) {
    const mx::array weight = wide(in.weight);
    for (int k = 0; k < taps; ++k) {
      const mx::array w = mx::squeeze(mx::slice(weight, {0, k}, {channels, k + 1}, s), 1, s);  // (D,)
      const mx::array rows = rows_at(mx::subtract(t, mx::array(taps - 1 - k), s), passed);
      y = mx::add(y, mx::multiply(w, rows, s), s);
    }
    if (in.bias) {
      y = mx::add(y, wide(*in.bias), s);
    }
    if (in.silu) {
      y = mx::multiply(y, mx::sigmoid(y, s), s);
    }
    const mx::array real = mx::logical_and(mx::greater_equal(t, begin, s), mx::less(t, end, s), s);
    y = mx::where(mx::expand_dims(real, 2, s), y, zero, s);
  }
  mx::array last = mx::zeros({batch, 0, channels}, dtype, s);
  if (taps > 1) {
    const mx::array p = mx::add(end, mx::arange(1 - taps, 0, mx::int32, s), s);  // (B, K - 1)
    mx::array seen = mx::zeros({batch, 1}, mx::int32, s);
    if (length > 0) {
      seen = mx::max(passed, 1, true, s);
    }
    last = rows_at(p, mx::broadcast_to(seen, p.shape(), s));
  }
  return {mx::astype(y, in.x.dtype(), s), mx::astype(last, in.x.dtype(), s)};
}

}  // namespace mamba::ops
