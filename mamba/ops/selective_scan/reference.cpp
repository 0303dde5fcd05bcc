#include "mamba/ops/selective_scan/reference.h"

#include <mlx/ops.h>

#include <vector>

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// silu(z) and softplus(x) in the dtype of their argument.
mx::array silu(const mx::array& z, mx::StreamOrDevice s) {
  return mx::multiply(z, mx::sigmoid(z, s), s);
}
mx::array softplus(const mx::array& x, mx::StreamOrDevice s) {
  return mx::logaddexp(x, mx::zeros_like(x, s), s);
}

// (B, L) truth of "position t of row b is in the span".
mx::array inside(const mx::array& spans, int length, mx::StreamOrDevice s) {
  const mx::array t = mx::arange(length, s);  // (L,)
  const mx::array begin = mx::slice(spans, {0, 0}, {spans.shape(0), 1}, s);
  const mx::array end = mx::slice(spans, {0, 1}, {spans.shape(0), 2}, s);
  return mx::logical_and(mx::greater_equal(t, begin, s), mx::less(t, end, s), s);
}

}  // namespace

SelectiveScanOutputs selective_scan_reference(const SelectiveScanInputs& in, mx::StreamOrDevice s) {
  const int batch = in.u.shape(0);
  const int length = in.u.shape(1);
  const int channels = in.u.shape(2);
  const int states = in.A.shape(1);
  const mx::Dtype dtype = in.u.dtype() == mx::float64 ? mx::float64 : mx::float32;
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, s); };
  // Position t of a (B, L, ...) array.
  const auto at = [&](const mx::array& a, int t) {
    mx::Shape start(a.ndim(), 0);
    mx::Shape stop = a.shape();
    start[1] = t;
    stop[1] = t + 1;
    return mx::squeeze(mx::slice(a, start, stop, s), 1, s);
  };

  const mx::array u = wide(in.u);
  mx::array dt = wide(in.delta);
  if (in.delta_bias) {
    dt = mx::add(dt, wide(*in.delta_bias), s);
  }
  if (in.delta_softplus) {
    dt = softplus(dt, s);
  }
  const mx::array A = wide(in.A);
  const mx::array B = wide(in.B);
  const mx::array C = wide(in.C);
  const mx::array zero = mx::array(0.0f, dtype);
  mx::array h = in.initial_state ? wide(*in.initial_state) : mx::zeros({batch, channels, states}, dtype, s);

  std::vector<mx::array> rows;  // (B, D) each
  for (int t = 0; t < length; ++t) {
    const mx::array dt_t = mx::expand_dims(at(dt, t), 2, s);       // (B, D, 1)
    const mx::array u_t = mx::expand_dims(at(u, t), 2, s);         // (B, D, 1)
    const mx::array B_t = mx::expand_dims(at(B, t), 1, s);         // (B, 1, N)
    const mx::array C_t = mx::expand_dims(at(C, t), 1, s);         // (B, 1, N)
    const mx::array decay = mx::exp(mx::multiply(dt_t, A, s), s);  // (B, D, N)
    mx::array before = h;
    if (in.resets) {
      before = mx::where(mx::expand_dims(at(*in.resets, t), {1, 2}, s), zero, before, s);
    }
    mx::array next = mx::add(mx::multiply(decay, before, s), mx::multiply(mx::multiply(dt_t, u_t, s), B_t, s), s);
    rows.push_back(mx::sum(mx::multiply(next, C_t, s), 2, false, s));
    h = in.spans ? mx::where(mx::expand_dims(at(inside(*in.spans, length, s), t), {1, 2}, s), next, h, s) : next;
  }
  mx::array y = length == 0 ? mx::zeros({batch, 0, channels}, dtype, s) : mx::stack(rows, 1, s);
  if (in.D) {
    y = mx::add(y, mx::multiply(u, wide(*in.D), s), s);
  }
  if (in.z) {
    y = mx::multiply(y, silu(wide(*in.z), s), s);
  }
  if (in.spans) {
    y = mx::where(mx::expand_dims(inside(*in.spans, length, s), 2, s), y, zero, s);
  }
  return {mx::astype(y, in.u.dtype(), s), h};
}

}  // namespace mamba::ops
