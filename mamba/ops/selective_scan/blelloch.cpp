// A position is the map h -> a h + b. Doing (a, b) and then (a', b') is the map (a' a, a' b + b'): the operation is
// associative, with (1, 0) as its neutral element, so maps of neighbours can be joined in any grouping.
//
// Up: level k joins pairs of level k - 1, until one map spans the whole length. Down: the state that enters a pair
// enters its left half, and what the left half makes of it enters the right one. The textbook hands down prefixes,
// which are maps as well; since the first state is known, they can be applied to it at once, which halves this sweep's
// work.

#include "mamba/ops/selective_scan/blelloch.h"

#include <mlx/ops.h>

#include <bit>
#include <vector>

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// Maps of neighbouring stretches of one length: (B, stretches, M) each.
struct Level {
  mx::array a;
  mx::array b;
};

// Every other position of axis 1, from `first` on.
mx::array every_other(const mx::array& x, int first, mx::StreamOrDevice s) {
  return mx::slice(x, {0, first, 0}, x.shape(), {1, 2, 1}, s);
}

// (B, n, M) and (B, n, M), one position of each in turn.
mx::array interleave(const mx::array& even, const mx::array& odd, mx::StreamOrDevice s) {
  return mx::reshape(mx::stack({even, odd}, 2, s), {even.shape(0), 2 * even.shape(1), even.shape(2)}, s);
}

Level pad(const Level& level, int length, mx::StreamOrDevice s) {
  mx::Shape more = level.a.shape();
  more[1] = length - more[1];
  if (more[1] == 0) {
    return level;
  }
  const mx::Dtype dtype = level.a.dtype();
  return {mx::concatenate({level.a, mx::ones(more, dtype, s)}, 1, s),
          mx::concatenate({level.b, mx::zeros(more, dtype, s)}, 1, s)};
}

}  // namespace

mx::array linear_recurrence_blelloch(const mx::array& a, const mx::array& b, const mx::array& first,
                                     mx::StreamOrDevice s) {
  const int length = a.shape(1);
  if (length == 0) {
    return b;
  }
  std::vector<Level> levels = {pad({a, b}, static_cast<int>(std::bit_ceil(static_cast<unsigned>(length))), s)};
  while (levels.back().a.shape(1) > 1) {
    const Level& below = levels.back();
    const mx::array right = every_other(below.a, 1, s);
    const mx::array joined = mx::multiply(right, every_other(below.a, 0, s), s);
    const mx::array added = mx::add(mx::multiply(right, every_other(below.b, 0, s), s), every_other(below.b, 1, s), s);
    levels.push_back({joined, added});
  }
  mx::array entering = mx::expand_dims(first, 1, s);  // (B, stretches of the level above, M)
  levels.pop_back();
  while (!levels.empty()) {
    const Level& level = levels.back();
    const mx::array after_left =
        mx::add(mx::multiply(every_other(level.a, 0, s), entering, s), every_other(level.b, 0, s), s);
    entering = interleave(entering, after_left, s);
    levels.pop_back();
  }
  const mx::array before = mx::slice(entering, {0, 0, 0}, a.shape(), s);
  return mx::add(mx::multiply(a, before, s), b, s);
}

SelectiveScanOutputs selective_scan_blelloch(const SelectiveScanInputs& in, mx::StreamOrDevice s) {
  const int batch = in.u.shape(0);
  const int length = in.u.shape(1);
  const int channels = in.u.shape(2);
  const int states = in.A.shape(1);
  const mx::Dtype dtype = in.u.dtype() == mx::float64 ? mx::float64 : mx::float32;
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, s); };
  const mx::array zero = mx::array(0.0f, dtype);
  const mx::array one = mx::array(1.0f, dtype);

  const mx::array u = wide(in.u);
  mx::array dt = wide(in.delta);
  if (in.delta_bias) {
    dt = mx::add(dt, wide(*in.delta_bias), s);
  }
  if (in.delta_softplus) {
    dt = mx::logaddexp(dt, zero, s);
  }
  // All (B, L, D, N).
  mx::array a = mx::exp(mx::multiply(mx::expand_dims(dt, 3, s), wide(in.A), s), s);
  mx::array b = mx::multiply(mx::expand_dims(mx::multiply(dt, u, s), 3, s), mx::expand_dims(wide(in.B), 2, s), s);
  if (in.resets) {
    a = mx::where(mx::expand_dims(*in.resets, {2, 3}, s), zero, a, s);
  }
  std::optional<mx::array> inside;  // (B, L)
  if (in.spans) {
    const mx::array t = mx::arange(length, s);
    const mx::array begin = mx::slice(*in.spans, {0, 0}, {batch, 1}, s);
    const mx::array end = mx::slice(*in.spans, {0, 1}, {batch, 2}, s);
    inside = mx::logical_and(mx::greater_equal(t, begin, s), mx::less(t, end, s), s);
    const mx::array keep = mx::expand_dims(*inside, {2, 3}, s);
    a = mx::where(keep, a, one, s);
    b = mx::where(keep, b, zero, s);
  }
  const mx::array first = in.initial_state ? wide(*in.initial_state) : mx::zeros({batch, channels, states}, dtype, s);
  const auto flat = [&](const mx::array& x) { return mx::reshape(x, {batch, length, channels * states}, s); };
  const mx::array h =
      linear_recurrence_blelloch(flat(a), flat(b), mx::reshape(first, {batch, channels * states}, s), s);

  // (B, L, D, N) x (B, L, N, 1)
  const mx::array all = mx::reshape(h, {batch, length, channels, states}, s);
  mx::array y = mx::squeeze(mx::matmul(all, mx::expand_dims(wide(in.C), 3, s), s), 3, s);
  if (in.D) {
    y = mx::add(y, mx::multiply(u, wide(*in.D), s), s);
  }
  if (in.z) {
    const mx::array z = wide(*in.z);
    y = mx::multiply(y, mx::multiply(z, mx::sigmoid(z, s), s), s);
  }
  if (inside) {
    y = mx::where(mx::expand_dims(*inside, 2, s), y, zero, s);
  }
  const mx::array last =
      length == 0 ? first
                  : mx::squeeze(mx::slice(all, {0, length - 1, 0, 0}, {batch, length, channels, states}, s), 1, s);
  return {mx::astype(y, in.u.dtype(), s), last};
}

}  // namespace mamba::ops
