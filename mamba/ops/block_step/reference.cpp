#include <mlx/ops.h>

#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/rms_norm/reference.h"
#include "mamba/ops/selective_scan/reference.h"

namespace mamba::ops {

namespace mx = mlx::core;

StepOutputs block_step_reference(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                                 const BlockStepWeights& weights, const mx::Stream& s) {
  const MixerStepWeights& w = weights.mixer;
  const mx::Dtype dtype = weights.in_proj.dtype();
  const int channels = w.A.shape(0);
  const int rank = w.dt_proj.shape(1);
  const int states = w.A.shape(1);
  const auto project = [&](const mx::array& x, const mx::array& weight) {
    return mx::astype(linear_reference(x, weight, {}, {.out_dtype = mx::float32}, s), dtype, s);
  };
  const mx::array normed = rms_norm_reference(mx::astype(h, mx::float32, s), weights.norm, weights.eps, s);
  const mx::array xz = mx::expand_dims(project(normed, weights.in_proj), 1, s);
  const std::vector<mx::array> halves = mx::split(xz, mx::Shape{channels}, -1, s);
  const auto convolved = causal_conv1d_reference(
      {.x = halves[0], .weight = w.conv_weight, .bias = w.conv_bias, .initial_state = conv, .silu = true}, s);
  const mx::array dt_B_C = project(convolved.y, w.x_proj);
  const std::vector<mx::array> parts = mx::split(dt_B_C, mx::Shape{rank, rank + states}, -1, s);
  const auto scan = selective_scan_reference({.u = convolved.y,
                                              .delta = project(parts[0], w.dt_proj),
                                              .A = w.A,
                                              .B = parts[1],
                                              .C = parts[2],
                                              .D = w.D,
                                              .z = halves[1],
                                              .delta_bias = w.dt_bias,
                                              .initial_state = ssm},
                                             s);
  const mx::array out = mx::squeeze(project(scan.y, weights.out_proj), 1, s);
  const mx::array sum = mx::add(mx::astype(h, mx::float32, s), mx::astype(out, mx::float32, s), s);
  return {mx::astype(sum, h.dtype(), s), convolved.state, scan.state};
}

}  // namespace mamba::ops
